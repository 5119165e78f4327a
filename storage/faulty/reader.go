package faulty

import "io"

// reader returns r with the faults of reading.
func (f Fault) reader(r io.ReadCloser) io.ReadCloser {
	if f.After > 0 {
		r = &cut{ReadCloser: r, left: f.After, err: f.Err}
	}
	if f.Corrupt {
		r = &damaged{ReadCloser: r}
	}
	return r
}

// cut ends before its time.
type cut struct {
	io.ReadCloser
	left int64
	err  error
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left == 0 {
		if c.err == nil {
			return 0, io.EOF
		}
		return 0, c.err
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}

// damaged changes the first byte.
type damaged struct {
	io.ReadCloser
	done bool
}

func (d *damaged) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if n > 0 && !d.done {
		p[0] ^= 1
		d.done = true
	}
	return n, err
}
