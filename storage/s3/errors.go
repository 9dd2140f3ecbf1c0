package s3

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"pgstow/storage"
)

// answer is what the store said, without the SDK's words around it.
type answer struct {
	status    int
	code      string // of S3: "NoSuchKey"
	message   string
	requestID string
}

func (a *answer) Error() string {
	text := fmt.Sprintf("%s (%d)", a.code, a.status)
	if a.message != "" && a.message != a.code {
		text = fmt.Sprintf("%s: %s (%d)", a.code, a.message, a.status)
	}
	if a.requestID != "" {
		text += ", request " + a.requestID
	}
	return text
}

// explain turns an error of the SDK into one that wraps the sentinel of storage which fits. An error that wraps none may
// be worth another try.
func explain(err error) error {
	if untrusted(err) {
		return fmt.Errorf("%w: %w", storage.ErrUntrusted, sendingError(err))
	}
	var re *smithyhttp.ResponseError
	if !errors.As(err, &re) || re.Response == nil {
		return explainSending(err)
	}
	a := &answer{status: re.HTTPStatusCode(), code: "?", message: http.StatusText(re.HTTPStatusCode())}
	var api smithy.APIError
	if !errors.As(err, &api) && a.status < 300 {
		return fmt.Errorf("reading the answer: %w", re.Err) // cut, or not S3's
	}
	if api != nil {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
	}
	var withID *awshttp.ResponseError
	if errors.As(err, &withID) {
		a.requestID = withID.ServiceRequestID()
	}
	if sentinel := classify(a.status, a.code); sentinel != nil {
		return fmt.Errorf("%w: %w", sentinel, a)
	}
	return a
}

// explainSending is explain for a request that got no answer.
func explainSending(err error) error {
	if strings.Contains(err.Error(), "no EC2 IMDS role found") {
		return fmt.Errorf("%w: no credentials are configured (environment, profile or role): %w", storage.ErrPermission, err)
	}
	return sendingError(err)
}

// untrusted tells whether a connection was not made because of the other side's certificate, or since it does not speak TLS. Neither heals by itself
// while somebody waits.
func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify) || errors.Is(err, http.ErrSchemeMismatch)
}

// sendingError is the error without the SDK's words around it.
func sendingError(err error) error {
	var sending *smithyhttp.RequestSendError
	if errors.As(err, &sending) {
		return sending.Err
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// classify returns the sentinel for an answer, or nil for one that another try may change. 404 counts as absence only
// with S3's own word for it: proxies and wrong endpoints answer 404 too.
func classify(status int, code string) error {
	switch code {
	case "NoSuchKey":
		return storage.ErrNotExist
	case "NoSuchBucket":
		return storage.ErrNoStore
	case "InvalidObjectState":
		return storage.ErrArchived
	case "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded":
		return storage.ErrFull
	case "NotImplemented":
		return storage.ErrUnsupported
	case "KeyTooLongError", "ExistingObjectIsDirectory", "ObjectParentIsFile", "XMinioParentIsObject", "XMinioInvalidObjectName":
		return storage.ErrInvalidKey
	case "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch":
		return nil // 400, but the way there was at fault
	case "ExpiredToken", "TokenRefreshRequired", "InvalidToken":
		return storage.ErrPermission // 400 as well
	}
	switch status {
	case http.StatusInsufficientStorage:
		return storage.ErrFull
	case http.StatusUnauthorized, http.StatusForbidden:
		return storage.ErrPermission
	case http.StatusConflict:
		return storage.ErrConflict
	case http.StatusPreconditionFailed:
		return storage.ErrExist
	case http.StatusRequestedRangeNotSatisfiable:
		return storage.ErrRange
	case http.StatusNotImplemented:
		return storage.ErrUnsupported
	case http.StatusNotFound, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return nil
	}
	if status >= 300 && status < 500 {
		return storage.ErrRejected
	}
	return nil
}
