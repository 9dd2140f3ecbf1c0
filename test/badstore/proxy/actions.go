package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"pgstow/test/minio"
)

// Pass lets the store answer.
func Pass(x *Exchange) { x.change(nil, nil) }

// change is Pass with a changed request and a changed answer.
func (x *Exchange) change(request func(*http.Request), answer func(*Answer)) {
	a, err := x.Forward(request)
	if err != nil {
		x.breakOff() // the store is gone
		return
	}
	if answer != nil {
		answer(a)
	}
	x.Send(a)
}

// breakOff ends the connection by a reset, as a server does that dies, or a firewall that has forgotten.
func (x *Exchange) breakOff() {
	c, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// wait waits, unless the client or the proxy goes before.
func (x *Exchange) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-x.r.Context().Done():
	case <-x.p.closed:
	}
	return false
}

// Late answers after a while.
func Late(d time.Duration) Action {
	return func(x *Exchange) {
		if x.wait(d) {
			Pass(x)
		}
	}
}

// Hang never answers.
func Hang(x *Exchange) {
	x.Drain()
	x.wait(time.Hour)
	x.breakOff()
}

// Error answers with an error of S3, without asking the store. status may be 200.
func Error(status int, code string) Action {
	return func(x *Exchange) {
		x.Drain()
		body := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>injected</Message><RequestId>REQ</RequestId></Error>`, code)
		x.Send(&Answer{Status: status, Header: http.Header{"Content-Type": {"application/xml"}}, Body: []byte(body)})
	}
}

// EarlyError is Error without reading the body of the request.
func EarlyError(status int, code string) Action {
	return func(x *Exchange) {
		x.w.Header().Set("Connection", "close")
		x.r.Body = http.NoBody
		Error(status, code)(x)
	}
}

// Page answers with a web page, as a load balancer or a captive portal does.
func Page(status int) Action {
	return func(x *Exchange) {
		x.Drain()
		x.Send(&Answer{Status: status, Header: http.Header{"Content-Type": {"text/html"}, "Etag": {`"page"`}},
			Body: []byte("<!DOCTYPE html>\n<html><head><title>Sorry</title></head><body><h1>Back in a minute</h1><br></body></html>\n")})
	}
}

// Empty answers with a status and nothing else.
func Empty(status int) Action {
	return func(x *Exchange) {
		x.Drain()
		x.Send(&Answer{Status: status, Header: http.Header{}})
	}
}

// Redirect sends the client elsewhere.
func Redirect(status int, location string) Action {
	return func(x *Exchange) {
		x.Drain()
		body := "<Error><Code>TemporaryRedirect</Code><Message>injected</Message></Error>"
		if status == http.StatusMovedPermanently {
			body = strings.Replace(body, "TemporaryRedirect", "PermanentRedirect", 1)
		}
		x.Send(&Answer{Status: status, Header: http.Header{"Location": {location}, "Content-Type": {"application/xml"}}, Body: []byte(body)})
	}
}

// ResetRequest breaks the connection off when n bytes of the request's body have come, and asks nobody.
func ResetRequest(n int64) Action {
	return func(x *Exchange) {
		_, _ = io.CopyN(io.Discard, x.r.Body, n)
		x.breakOff()
	}
}

// LoseReply lets the store do it, and breaks the connection off instead of answering.
func LoseReply(x *Exchange) {
	_, _ = x.Forward(nil)
	x.breakOff()
}

// BadGateway lets the store do it, and answers 502 with a page.
func BadGateway(x *Exchange) {
	_, _ = x.Forward(nil)
	Page(http.StatusBadGateway)(x)
}

// CutBody sends the first n bytes of the answer's body, of which the head announced all, and breaks off.
func CutBody(n int) Action {
	return func(x *Exchange) {
		a, err := x.Forward(nil)
		if err == nil {
			x.head(a, len(a.Body))
			_, _ = x.w.Write(a.Body[:min(n, len(a.Body))])
			_ = http.NewResponseController(x.w).Flush()
		}
		x.breakOff()
	}
}

// ShortBody sends the first n bytes and says that these are all.
func ShortBody(n int) Action {
	return func(x *Exchange) { x.change(nil, func(a *Answer) { a.Body = a.Body[:min(n, len(a.Body))] }) }
}

// ShortUnmeasured is ShortBody without a Content-Length, in chunks that end well.
func ShortUnmeasured(n int) Action {
	return func(x *Exchange) {
		a, err := x.Forward(nil)
		if err != nil {
			x.breakOff()
			return
		}
		x.head(a, -1)
		_ = http.NewResponseController(x.w).Flush()
		_, _ = x.w.Write(a.Body[:min(n, len(a.Body))])
	}
}

// Unmeasured sends the whole answer without a Content-Length; such a body ends with its connection, and a cut one cannot be told from it.
func Unmeasured(n int) Action {
	return func(x *Exchange) {
		a, err := x.Forward(nil)
		if err != nil {
			x.breakOff()
			return
		}
		c, buf, err := http.NewResponseController(x.w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer func() { _ = c.Close() }()
		x.told(a.Status)
		_, _ = fmt.Fprintf(buf, "HTTP/1.0 %d OK\r\n", a.Status)
		a.Header.Del("Content-Length")
		_ = a.Header.Write(buf)
		_, _ = buf.WriteString("\r\n")
		_, _ = buf.Write(a.Body[:min(n, len(a.Body))])
		_ = buf.Flush()
	}
}

// WholeBody sends everything to who asked for a part, as HTTP allows.
func WholeBody(x *Exchange) {
	x.change(func(r *http.Request) {
		r.Header.Del("Range")
		sign(r)
	}, nil)
}

// Flip inverts one byte of the answer's body.
func Flip(at int) Action {
	return func(x *Exchange) {
		x.change(nil, func(a *Answer) {
			if at < len(a.Body) {
				a.Body[at] ^= 0xff
			}
		})
	}
}

// Trickle sends the answer's body a byte at a time.
func Trickle(every time.Duration) Action {
	return func(x *Exchange) {
		a, err := x.Forward(nil)
		if err != nil {
			x.breakOff()
			return
		}
		x.head(a, len(a.Body))
		for i := range a.Body {
			if !x.wait(every) {
				return
			}
			_, _ = x.w.Write(a.Body[i : i+1])
			_ = http.NewResponseController(x.w).Flush()
		}
	}
}

// Tag gives the answer another ETag; "" is none.
func Tag(etag string) Action {
	return func(x *Exchange) {
		x.change(nil, func(a *Answer) {
			if a.Header.Del("Etag"); etag != "" {
				a.Header.Set("Etag", etag)
			}
		})
	}
}

// Clock lets the store's clock be wrong: the Date of the answer, which is all that a client sees of it.
func Clock(by time.Duration) Action {
	return func(x *Exchange) {
		x.change(nil, func(a *Answer) { a.Header.Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat)) })
	}
}

// Unconditional is a store that knows no If-None-Match and no If-Match, and says nothing of it. The request is signed anew without them.
func Unconditional(x *Exchange) {
	x.change(func(r *http.Request) {
		r.Header.Del("If-None-Match")
		r.Header.Del("If-Match")
		sign(r)
	}, nil)
}

func sign(r *http.Request) {
	hash := r.Header.Get("X-Amz-Content-Sha256")
	r.Header.Del("Authorization")
	credentials := aws.Credentials{AccessKeyID: minio.AccessKey, SecretAccessKey: minio.SecretKey}
	// An error would show as a request that the store refuses.
	_ = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).
		SignHTTP(context.Background(), credentials, r, hash, "s3", minio.Region, time.Now())
}

var contents = regexp.MustCompile(`(?s)<Contents>.*?</Contents>`)

// Stale is a list that lacks the objects with a word in their key.
func Stale(word string) Action {
	return func(x *Exchange) {
		x.change(nil, func(a *Answer) {
			a.Body = contents.ReplaceAllFunc(a.Body, func(entry []byte) []byte {
				if strings.Contains(string(entry), word) {
					return nil
				}
				return entry
			})
		})
	}
}
