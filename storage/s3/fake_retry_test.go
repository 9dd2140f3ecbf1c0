package s3_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"testing"

	"pgstow/storage"
	"pgstow/storage/retry"
)

// head is the answer to a HEAD of an object with these bytes; checksum says whether the store tells it.
func head(body string, checksum bool) step {
	s := object("")
	s.header["Content-Length"] = fmt.Sprint(len(body))
	if checksum {
		sum := sha256.Sum256([]byte(body))
		s.header["X-Amz-Checksum-Sha256"] = base64.StdEncoding.EncodeToString(sum[:])
	}
	return s
}

// What a conditional Put under retry asks for after each kind of trouble, request by request: the fake fails the test
// if it is asked for more, and done if for less.
func TestPutUnderRetry(t *testing.T) {
	const ours, other = "our bytes", "not these"
	precondition := step{status: 412, code: "PreconditionFailed"}
	cut := step{cut: true}
	for name, c := range map[string]struct {
		script []step
		want   error
	}{
		"stored at once":      {[]step{stored}, nil},
		"clean 412":           {[]step{precondition}, storage.ErrExist},
		"409 then stored":     {[]step{{status: 409, code: "ConditionalRequestConflict"}, stored}, nil},
		"409 then ours":       {[]step{{status: 409, code: "ConditionalRequestConflict"}, precondition, head(ours, true)}, nil},
		"503 then stored":     {[]step{{status: 503, code: "SlowDown"}, stored}, nil},
		"503 then ours":       {[]step{{status: 503}, precondition, head(ours, true)}, nil},
		"cut, it was stored":  {[]step{cut, precondition, head(ours, true)}, nil},
		"cut, no checksum":    {[]step{cut, precondition, head(ours, false), object(ours)}, nil},
		"cut, another's":      {[]step{cut, precondition, head(other, true)}, storage.ErrExist},
		"cut, no sum, differ": {[]step{cut, precondition, head(other, false), object(other)}, storage.ErrExist},
		"cut, other size":     {[]step{cut, precondition, head("longer than ours", false)}, storage.ErrExist},
		"cut, cut, stored":    {[]step{cut, cut, stored}, nil},
		"cut, then denied":    {[]step{cut, {status: 403, code: "AccessDenied"}}, storage.ErrPermission},
		"cut, gone, stored":   {[]step{cut, precondition, {status: 404}, {status: 404, code: "NoSuchKey"}, stored}, nil},
		"no bucket":           {[]step{{status: 404, code: "NoSuchBucket"}}, storage.ErrNoStore},
		"denied":              {[]step{{status: 403, code: "AccessDenied"}}, storage.ErrPermission},
		"damaged on the way":  {[]step{{status: 400, code: "BadDigest"}, stored}, nil},
		"does not know it":    {[]step{{status: 501, code: "NotImplemented"}}, storage.ErrUnsupported},
		"404 of a proxy":      {[]step{{status: 404}, stored}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f, inner := newFake(t, c.script...)
			s := retry.New(inner, retry.Policy{FirstWait: 1, MaxWait: 1}, nil)
			info, err := s.Put(t.Context(), "k", []byte(ours), storage.IfAbsent)
			switch {
			case c.want != nil:
				wantErr(t, name, err, c.want)
			case err != nil:
				t.Error(err)
			case info.ETag != `"tag"` || *info.SHA256 != sha256.Sum256([]byte(ours)):
				t.Errorf("%+v", info)
			}
			for i, r := range f.done() {
				if r.Method != "PUT" {
					continue
				}
				if r.Header.Get("If-None-Match") != "*" || string(f.bodies[i]) != ours {
					t.Errorf("request %d: not the same put again", i)
				}
			}
		})
	}
}
