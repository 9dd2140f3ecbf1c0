package s3

import "time"

// ListedObject is one entry of a page.
type ListedObject struct {
	Key, ETag string
	Size      int64
	Modified  time.Time
}

// ParsePage is parsePage for tests.
func ParsePage(body []byte) (objects []ListedObject, truncated bool, next, encoding string, ok bool) {
	p, ok := parsePage(body)
	for _, o := range p.objects {
		objects = append(objects, ListedObject{o.key, o.etag, o.size, o.modified})
	}
	return objects, p.truncated, p.next, string(p.encoding), ok
}
