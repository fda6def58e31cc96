package openloop

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
)

// HTTP is a question by HTTP on a connection of its own, which ends with the answer.
type HTTP struct {
	Address string   // host:port
	Path    string   // begins with a slash
	Want    []string // each a body that is right, but for space around it; none: any body
}

// maxBody is how much of an answer is read; the answers of a load are short.
const maxBody = 1 << 20

// Ask makes the request. An answer other than 200, or with another body, wraps
// ErrWrong. A body that ends early is an error of the connection.
func (h HTTP) Ask(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", h.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(end); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", h.Path, h.Address); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: %s", ErrWrong, resp.Status)
	}
	if len(h.Want) > 0 && !slices.Contains(h.Want, text) {
		return fmt.Errorf("%w: %q", ErrWrong, text)
	}
	return nil
}
