package engine

import (
	"errors"
	"io"
	"sync"

	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
)

// fileSync answers the engine's requests for trees.
//
// The sender of the engine's client library takes a file that cannot be opened for
// an empty one, and one that cannot be read to its end leaves both sides waiting for
// each other. So the engine is told of either here.
type fileSync struct{ trees *treeSource }

// Register implements [session.Attachable].
func (f fileSync) Register(s *grpc.Server) { filesync.RegisterFileSyncServer(s, f) }

// DiffCopy implements [filesync.FileSyncServer].
func (f fileSync) DiffCopy(stream filesync.FileSync_DiffCopyServer) error {
	s := &sendStream{FileSync_DiffCopyServer: stream}
	return sender(sent{f.trees, s}).DiffCopy(s)
}

// TarStream implements [filesync.FileSyncServer]. The engine asks for no archives.
func (f fileSync) TarStream(filesync.FileSync_TarStreamServer) error {
	return errors.New("trees are not sent as archives")
}

// sender returns the library's, which is a server of its own.
func sender(dirs filesync.DirSource) filesync.FileSyncServer {
	return filesync.NewFSSyncProvider(dirs).(filesync.FileSyncServer)
}

// sendStream is the way to the engine for one tree.
type sendStream struct {
	filesync.FileSync_DiffCopyServer
	mu sync.Mutex
}

// SendMsg implements [grpc.ServerStream].
func (s *sendStream) SendMsg(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.FileSync_DiffCopyServer.SendMsg(m)
}

// fail has the engine give the tree up.
func (s *sendStream) fail(err error) error {
	return s.SendMsg(&fstypes.Packet{Type: fstypes.PACKET_ERR, Data: []byte(err.Error())})
}

// sent finds the trees that are sent on a stream.
type sent struct {
	trees *treeSource
	to    *sendStream
}

// LookupDir implements [filesync.DirSource].
func (s sent) LookupDir(name string) (fsutil.FS, bool) {
	dir, ok := s.trees.find(name)
	return sentFS{FS: dir, failed: func(err error) error {
		s.trees.fail(name, err)
		return s.to.fail(err)
	}}, ok
}

// sentFS is a tree on its way.
type sentFS struct {
	fsutil.FS
	failed func(error) error
}

// Open implements [fsutil.FS].
func (s sentFS) Open(p string) (io.ReadCloser, error) {
	r, err := s.FS.Open(p)
	return &sentFile{body: r, err: err, failed: s.failed}, nil
}

// sentFile is a file on its way.
type sentFile struct {
	body io.ReadCloser // nil where it could not be opened, which err tells
	err  error
	// failed tells the engine and whoever waits for it.
	failed func(error) error
}

// Read implements [io.Reader]. A file that failed ends: the engine knows already
// that it is not whole, and the sender goes on until the engine hangs up.
func (f *sentFile) Read(p []byte) (n int, err error) {
	if err = f.err; err == nil {
		n, err = f.body.Read(p)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if err := f.failed(err); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// Close implements [io.Closer].
func (f *sentFile) Close() error {
	if f.body == nil {
		return nil
	}
	return f.body.Close()
}
