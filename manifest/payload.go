package manifest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"patchagent/manifest/reason"
)

// Payload returns the unpacked bytes of an item of this package. At its end it has
// checked their number, their CRC-32 and, where the manifest has one, their
// SHA-256; otherwise Read returns a *reason.Error. It never yields more than Size.
func (p *Package) Payload(it Item) (io.ReadCloser, error) {
	if it.entry == nil {
		return nil, fmt.Errorf("%s has no payload", it.Path)
	}
	r, err := p.open(it.entry)
	if err != nil || it.SHA256 == "" {
		return r, err
	}
	return &digestReader{ReadCloser: r, sum: sha256.New(), want: it.SHA256, name: it.Payload}, nil
}

// Verify unpacks every entry once and checks it as Payload does. Errors are
// *reason.Error, or the context's.
func (p *Package) Verify(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	digests := map[*entry]string{}
	for _, it := range p.items {
		if before, twice := digests[it.entry]; twice && it.SHA256 != before {
			return reason.Errorf(reason.PayloadMismatch, "the manifest gives %s two different digests", it.Payload)
		}
		digests[it.entry] = it.SHA256
	}
	work := make(chan *entry)
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(p.entries)) {
		workers.Go(func() {
			buf := make([]byte, 64<<10)
			for e := range work {
				if err := p.verifyOne(ctx, e, digests[e], buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, e := range p.entries {
		if !e.dir || e.packed > 0 || e.crc != 0 {
			work <- e
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

func (p *Package) verifyOne(ctx context.Context, e *entry, digest string, buf []byte) error {
	if ctx.Err() != nil {
		return nil
	}
	if err := p.hidesAnEnd(ctx, e); err != nil {
		return err
	}
	r, err := p.Payload(Item{entry: e, Payload: e.name, SHA256: digest})
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		switch _, err := r.Read(buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return nil
		}
	}
}

// hidesAnEnd refuses an entry that ends earlier for whoever reads the zip from its
// beginning to its end: stored, without its size before it, and with a data descriptor
// inside that fits what is before that (4.3.9).
func (p *Package) hidesAnEnd(ctx context.Context, e *entry) error {
	if e.method != methodStore || e.flags&flagDescriptor == 0 {
		return nil
	}
	const signature = "PK\x07\x08"
	r := bufio.NewReaderSize(io.NewSectionReader(p.r, e.data, e.packed), 64<<10)
	crc, n := uint32(0), uint64(0)
	skip := func(data []byte) {
		crc, n = crc32.Update(crc, crc32.IEEETable, data), n+uint64(len(data))
		_, _ = r.Discard(len(data))
	}
	for ctx.Err() == nil {
		_, err := r.Peek(len(signature) + descriptorLen64) // it reads only where that is not there
		ahead, _ := r.Peek(r.Buffered())
		if len(ahead) < len(signature) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		before, _, ok := bytes.Cut(ahead, []byte(signature))
		if !ok {
			skip(ahead[:len(ahead)-len(signature)+1])
			continue
		}
		skip(before)
		d, _ := r.Peek(len(signature) + descriptorLen64)
		short := len(d) >= len(signature)+descriptorLen && le32(d[4:]) == crc && uint64(le32(d[8:])) == n
		long := len(d) >= len(signature)+descriptorLen64 && le32(d[4:]) == crc && le64(d[8:]) == n
		if short || long {
			return bad("%s ends twice: there is a data descriptor inside that fits what is before it", e.name)
		}
		skip(d[:len(signature)])
	}
	return nil // the caller knows
}

func (p *Package) readAll(e *entry) ([]byte, error) {
	r, err := p.open(e)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data := make([]byte, 0, e.size+1) // with room to see the end
	for {
		n, err := r.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// open unpacks an entry.
func (p *Package) open(e *entry) (io.ReadCloser, error) {
	packed := bufio.NewReader(io.NewSectionReader(p.r, e.data, e.packed))
	s := &stream{entry: e, packed: packed, left: e.size, close: func() {}}
	switch e.method {
	case methodStore:
		s.r = packed
	case methodDeflate:
		f, ok := p.inflate.Get().(io.ReadCloser)
		if !ok {
			f = flate.NewReader(packed)
		} else if err := f.(flate.Resetter).Reset(packed, nil); err != nil {
			return nil, err
		}
		s.r, s.close = f, func() { p.inflate.Put(f) }
	case methodZstd:
		z, ok := p.unzstd.Get().(*zstd.Decoder)
		if !ok {
			var err error
			if z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err != nil {
				return nil, e.damaged(err)
			}
		}
		if err := z.Reset(packed); err != nil {
			return nil, e.damaged(err)
		}
		s.r, s.close = z, func() { p.unzstd.Put(z) }
	}
	return s, nil
}

// stream is an entry while it is unpacked.
type stream struct {
	entry  *entry
	packed *bufio.Reader
	r      io.Reader
	left   int64
	crc    uint32
	close  func()
	done   error
}

func (e *entry) damaged(err error) error {
	return reason.Errorf(reason.Incomplete, "%s in the zip is damaged or not fully copied: %w", e.name, err)
}

var errLonger = errors.New("it unpacks to more than its declared size")

func (s *stream) Read(p []byte) (int, error) {
	if s.done != nil {
		return 0, s.done
	}
	n, err := s.r.Read(p)
	if int64(n) > s.left {
		s.done = s.entry.damaged(errLonger)
		return 0, s.done
	}
	s.left -= int64(n)
	s.crc = crc32.Update(s.crc, crc32.IEEETable, p[:n])
	switch {
	case errors.Is(err, io.EOF):
		s.done = s.end()
	case err != nil:
		s.done = s.entry.damaged(err)
	}
	if n > 0 {
		return n, nil // the end, good or bad, is told with the next call
	}
	return 0, s.done
}

// end checks what can only be known at the end.
func (s *stream) end() error {
	if s.left > 0 {
		return s.entry.damaged(fmt.Errorf("it ends after %d of %d bytes", s.entry.size-s.left, s.entry.size))
	}
	if s.crc != s.entry.crc {
		return s.entry.damaged(fmt.Errorf("its checksum is %08x and not %08x", s.crc, s.entry.crc))
	}
	if _, err := s.packed.ReadByte(); !errors.Is(err, io.EOF) {
		return reason.Errorf(reason.NotAZip, "%s in the zip has %s after its end", s.entry.name, "data")
	}
	return io.EOF
}

func (s *stream) Close() error {
	s.close()
	s.close = func() {}
	s.done = fs.ErrClosed
	return nil
}

// digestReader checks a digest at the end of what it reads.
type digestReader struct {
	io.ReadCloser
	sum  hash.Hash
	want string
	name string
}

func (d *digestReader) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	d.sum.Write(p[:n])
	if errors.Is(err, io.EOF) {
		if got := hex.EncodeToString(d.sum.Sum(nil)); got != d.want {
			return n, reason.Errorf(reason.PayloadMismatch, "%s has the SHA-256 %s, and the manifest says %s", d.name, got, d.want)
		}
	}
	return n, err
}
