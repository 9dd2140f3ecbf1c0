// Package minio runs a real S3 server, MinIO, for tests and for the demo.
package minio

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"pgstow/test/pg"
)

// Credentials and region of every server here.
const (
	AccessKey = "pgstow-test"
	SecretKey = "pgstow-test-secret"
	Region    = "us-east-1"
)

// Options of a server; the zero value is a plain HTTP server without buckets.
type Options struct {
	Buckets []string // made before it starts
	TLS     bool     // serve HTTPS with a certificate of its own: see Server.CAFile
	Env     []string // added to its environment
}

// Server is a MinIO server on one folder. It keeps its address over stop, kill and start.
type Server struct {
	Endpoint string // "http://127.0.0.1:12345"
	CAFile   string // with Options.TLS: the certificate to trust, in PEM
	LogFile  string

	t      pg.TB
	bin    string
	data   string
	certs  string
	addr   string
	env    []string
	client *http.Client
	cmd    *exec.Cmd
	exited chan struct{}
}

// New starts a server that ends with the test. Where MinIO is not there the test is skipped, or fails when PGSTOW_TEST_REQUIRE is set.
func New(t pg.TB, o Options) *Server {
	t.Helper()
	bin, err := find()
	if err != nil {
		pg.Missing(t, err.Error())
	}
	dir := pg.TempDir(t)
	s := &Server{
		t: t, bin: bin,
		LogFile: filepath.Join(dir, "minio.log"),
		data:    filepath.Join(dir, "data"),
		certs:   filepath.Join(dir, "certs"),
		addr:    freeAddr(t),
		env:     o.Env,
		client:  &http.Client{Timeout: 2 * time.Second},
	}
	for _, d := range []string{s.data, s.certs} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatalf("minio: %v", err)
		}
	}
	for _, b := range o.Buckets {
		s.MakeBucket(b)
	}
	s.Endpoint = "http://" + s.addr
	if o.TLS {
		s.Endpoint = "https://" + s.addr
		s.CAFile = filepath.Join(s.certs, "public.crt")
		if err := s.makeCertificate(); err != nil {
			t.Fatalf("minio certificate: %v", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(s.LogFile); err == nil {
				t.Logf("MinIO's log:\n%s", b[max(0, len(b)-4096):])
			}
		}
		s.Kill()
	})
	s.Start()
	return s
}

// URL is the repository address of a prefix in a bucket.
func (s *Server) URL(bucket, prefix string) string {
	q := url.Values{"endpoint": {s.Endpoint}, "region": {Region}}
	if s.CAFile != "" {
		q.Set("ca_file", s.CAFile)
	}
	u := url.URL{Scheme: "s3", Host: bucket, Path: "/" + prefix, RawQuery: q.Encode()}
	return u.String()
}

// Env are the credentials as the SDK's environment variables. The last two keep it from reading files or asking the cloud.
func (s *Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_REGION=" + Region,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null",
	}
}

// MakeBucket makes a bucket without a request, also while the server is down: on a single drive a bucket is a folder.
func (s *Server) MakeBucket(name string) {
	s.t.Helper()
	if err := os.Mkdir(filepath.Join(s.data, name), 0o755); err != nil {
		s.t.Fatalf("make bucket: %v", err)
	}
}

// Dir is the folder in which the server keeps its data: an object is the folder <bucket>/<key> there.
func (s *Server) Dir() string { return s.data }

// Start starts the server again and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatalf("minio: %v", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(s.bin, "server", "--quiet", "--certs-dir", s.certs, "--address", s.addr, s.data)
	cmd.Env = append([]string{
		"HOME=" + s.certs, "MINIO_ROOT_USER=" + AccessKey, "MINIO_ROOT_PASSWORD=" + SecretKey,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off",
		// without it a drive is refused on which the folder shares the root file system
		"MINIO_CI_CD=1",
	}, s.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("minio: %v", err)
	}
	exited := make(chan struct{})
	s.cmd, s.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	pg.Await(s.t, "MinIO at "+s.addr, time.Minute, func() (bool, error) {
		select {
		case <-exited:
			b, _ := os.ReadFile(s.LogFile)
			return false, fmt.Errorf("it exited: %s\n%s", cmd.ProcessState, b)
		default:
		}
		// Its health page says ready too early. An anonymous request is denied once it serves, and answered by 503 until then.
		resp, err := s.client.Get(s.Endpoint + "/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusForbidden, nil // an error: not there yet
	})
}

// Stop ends the server as its operator would.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends it by SIGKILL.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Freeze stops the server's process, so that connections are accepted and requests hang; Thaw lets it go on. When it returns every
// thread has stopped: on a busy machine one may still answer for a while after the signal.
func (s *Server) Freeze() {
	s.t.Helper()
	_ = s.cmd.Process.Signal(syscall.SIGSTOP)
	pg.Await(s.t, "MinIO to freeze", 30*time.Second, func() (bool, error) { return stopped(s.cmd.Process.Pid) })
}

// stopped tells whether all threads of a process are stopped: state T in /proc/PID/task/TID/stat, behind the name in parentheses.
func stopped(pid int) (bool, error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, err
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // the thread has ended
		}
		if _, state, ok := strings.Cut(string(b[bytes.LastIndexByte(b, ')')+1:]), " "); !ok || !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return len(stats) > 0, nil
}

// Thaw ends Freeze.
func (s *Server) Thaw() { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

func (s *Server) end(sig syscall.Signal) {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Signal(sig)
	<-s.exited
	s.client.CloseIdleConnections()
}

// makeCertificate writes a certificate for 127.0.0.1 that signs itself, where MinIO looks for it.
func (s *Server) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "pgstow test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:     []string{"localhost"},
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	s.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	return errors.Join(
		os.WriteFile(s.CAFile, certPEM, 0o644),
		os.WriteFile(filepath.Join(s.certs, "private.key"), keyPEM, 0o600),
	)
}

// find looks where PGSTOW_TEST_MINIO says, in .cache/bin, where `make` builds it, and on the PATH.
func find() (string, error) {
	if bin := os.Getenv("PGSTOW_TEST_MINIO"); bin != "" {
		return bin, nil
	}
	if root, err := pg.ModuleRoot(); err == nil {
		bin := filepath.Join(root, ".cache", "bin", "minio")
		if _, err := os.Stat(bin); err == nil {
			return bin, nil
		}
	}
	bin, err := exec.LookPath("minio")
	if err != nil {
		return "", errors.New("MinIO is not there: run `make minio`")
	}
	return bin, nil
}

// freeAddr returns an address that is this server's alone until the test ends, also while it is down. MinIO listens with SO_REUSEPORT: two
// servers that were given one port would share it, and each would get some of the other's requests. Ports below those that the kernel gives
// to connections are each guarded by the lock of a file.
func freeAddr(t pg.TB) string {
	t.Helper()
	folder := filepath.Join(os.TempDir(), "pgstow-test-ports")
	if err := os.Mkdir(folder, 0o777); err == nil {
		err = os.Chmod(folder, 0o777|os.ModeSticky) // for tests of other users, too
		if err != nil {
			t.Fatalf("free port: %v", err)
		}
	}
	for range 1000 {
		port := strconv.Itoa(20000 + mathrand.IntN(12000))
		lock, err := os.OpenFile(filepath.Join(folder, port), os.O_RDWR|os.O_CREATE, 0o666)
		if err != nil {
			continue // another user's
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			addr := "127.0.0.1:" + port
			if l, err := net.Listen("tcp", addr); err == nil {
				_ = l.Close()
				t.Cleanup(func() { _ = lock.Close() })
				return addr
			}
		}
		_ = lock.Close()
	}
	t.Fatalf("no free port for MinIO")
	return ""
}
