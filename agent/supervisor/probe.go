package supervisor

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Probe is one question to the process: by HTTP (2xx is yes), by a TCP
// connection, or by a command (status 0 is yes). At most one is set.
type Probe struct {
	HTTP string // http://host/path, or unix:/socket:/path
	TCP  string // host:port
	Exec []string
}

func (p Probe) empty() bool { return p.HTTP == "" && p.TCP == "" && len(p.Exec) == 0 }

// Check asks once; ctx bounds it. The command has the surroundings of the process
// that opts run, and env.
func (p Probe) Check(ctx context.Context, opts Options, env []string) error {
	switch {
	case p.HTTP != "":
		return ask(ctx, http.MethodGet, p.HTTP)
	case p.TCP != "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.TCP)
		if err != nil {
			return err
		}
		return conn.Close()
	case len(p.Exec) > 0:
		_, err := RunCommand(ctx, opts.command(p.Exec, env, 0))
		return err
	default:
		return nil
	}
}

// post tells by HTTP.
func post(ctx context.Context, endpoint string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return ask(ctx, http.MethodPost, endpoint)
}

// maxAnswer bounds what is read of an answer for its error.
const maxAnswer = 1 << 10

// ask makes one request on a connection of its own; 2xx is yes.
func ask(ctx context.Context, method, endpoint string) error {
	resp, done, err := send(ctx, method, endpoint)
	if err != nil {
		return err
	}
	defer done()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s: %s", endpoint, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// send makes one request on a connection of its own, which done ends. It follows
// no redirect.
func send(ctx context.Context, method, endpoint string) (resp *http.Response, done func(), err error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if rest, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		socket, path, _ := strings.Cut(rest, ":")
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		endpoint = "http://localhost" + path
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, method, endpoint, nil)
	if err == nil {
		resp, err = client.Do(req)
	}
	if err != nil {
		transport.CloseIdleConnections()
		return nil, nil, err
	}
	return resp, func() { _ = resp.Body.Close(); transport.CloseIdleConnections() }, nil
}
