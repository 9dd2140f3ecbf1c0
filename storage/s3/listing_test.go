package s3_test

import (
	"encoding/xml"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgstow/storage"
	"pgstow/storage/s3"
)

const (
	listHead = `<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>pre/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>`
	listEntry = `<Contents><Key>pre/a%20b</Key><LastModified>2026-11-24T10:11:12.345Z</LastModified><ETag>&quot;70ee1738b6b21e2c8a43f3a5ab0eee71&quot;</ETag><ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>16777216</Size><StorageClass>STANDARD</StorageClass></Contents>`
	listOwned = `<Contents><Key>pre/c</Key><LastModified>2026-11-24T10:11:12Z</LastModified><ETag>&#34;x&#34;</ETag><Size>0</Size><Owner><ID>o</ID><DisplayName/></Owner><StorageClass></StorageClass></Contents>`
	listTail  = "</ListBucketResult>"
)

func TestParsePage(t *testing.T) {
	objects, truncated, next, encoding, ok := s3.ParsePage([]byte(listHead + listEntry + "\n " + listOwned + listTail + "\n"))
	want := []s3.ListedObject{
		{Key: "pre/a%20b", ETag: `"70ee1738b6b21e2c8a43f3a5ab0eee71"`, Size: 16777216, Modified: time.Date(2026, 11, 24, 10, 11, 12, 345e6, time.UTC)},
		{Key: "pre/c", ETag: `"x"`, Modified: time.Date(2026, 11, 24, 10, 11, 12, 0, time.UTC)},
	}
	if !ok || !slices.Equal(objects, want) || !truncated || next != "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=" || encoding != "url" {
		t.Errorf("%+v %v %q %q %v", objects, truncated, next, encoding, ok)
	}
	// What is not plain is left to the SDK, and what is no list, or a part of one, is never taken for one.
	whole := listHead + listEntry + listTail
	for i := range whole {
		if _, _, _, _, ok := s3.ParsePage([]byte(whole[:i])); ok {
			t.Errorf("cut after %d bytes", i)
		}
	}
	for _, edit := range [][2]string{
		{"<IsTruncated>true</IsTruncated>", ""}, {"true", "True"}, {"<Key>", "<key>"}, {"</Key>", "</key>"}, {"<Key>", "<Key x='y'>"},
		{"<Key>", "<!-- --><Key>"}, {"<Key>", "<Key><![CDATA[x]]>"}, {"a%20b", "a b\u00e9"}, {"a%20b", "a\rb"}, {"a%20b", "a&#xe9;b"}, {"a%20b", "a&b"},
		{"16777216", "16 MiB"}, {"2026-11-24T10:11:12.345Z", "yesterday"}, {"<Size>", "<Length>1</Length><Size>"}, {listTail, listTail + "<x/>"},
		{"ListBucketResult", "html"}, {"<Size>16777216</Size>", "<Size><Size>1</Size></Size>"}, {"<Contents>", "<CommonPrefixes><Prefix>x</Prefix></CommonPrefixes><Contents>"},
	} {
		changed := strings.Replace(whole, edit[0], edit[1], 1)
		if changed == whole {
			t.Fatalf("%q changes nothing", edit)
		}
		if _, _, _, _, ok := s3.ParsePage([]byte(changed)); ok {
			t.Errorf("%q passed", edit)
		}
	}
}

// TestListTheOtherWay: an answer that is left to the SDK gives the same.
func TestListTheOtherWay(t *testing.T) {
	plain := listing(false, "pre/a/1", "pre/a/2")
	odd := plain
	odd.body = strings.Replace(plain.body, "<Contents>", "<Unheard>of</Unheard><Contents><!-- odd -->", 1)
	var got [2][]storage.Info
	for i, answer := range []step{plain, odd} {
		if _, _, _, _, ok := s3.ParsePage([]byte(answer.body)); ok != (i == 0) {
			t.Fatalf("answer %d is parsed: %v", i, ok)
		}
		f, s := newFake(t, answer)
		for info, err := range s.List(t.Context(), "a/", "") {
			if err != nil {
				t.Fatal(err)
			}
			info.Now = time.Time{}
			got[i] = append(got[i], info)
		}
		f.done()
	}
	if len(got[0]) != 2 || !slices.Equal(got[0], got[1]) {
		t.Errorf("%+v and %+v", got[0], got[1])
	}
}

// FuzzParsePage: what is parsed is what encoding/xml finds.
func FuzzParsePage(f *testing.F) {
	for _, s := range []string{listHead + listEntry + listOwned + listTail, listHead + listTail, "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		objects, truncated, next, encoding, ok := s3.ParsePage(body)
		if !ok {
			return
		}
		var want struct {
			XMLName               xml.Name `xml:"ListBucketResult"`
			IsTruncated           string
			NextContinuationToken string
			EncodingType          string
			Contents              []struct{ Key, ETag, Size, LastModified string }
		}
		if err := xml.Unmarshal(body, &want); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if strconv.FormatBool(truncated) != want.IsTruncated || next != want.NextContinuationToken || encoding != want.EncodingType || len(objects) != len(want.Contents) {
			t.Fatalf("%q: %v %q %q %d, want %+v", body, truncated, next, encoding, len(objects), want)
		}
		for i, o := range objects {
			w := want.Contents[i]
			size, _ := strconv.ParseInt(w.Size, 10, 64)
			modified, _ := time.Parse(time.RFC3339Nano, w.LastModified)
			if o.Key != w.Key || o.ETag != w.ETag || o.Size != size || !o.Modified.Equal(modified) {
				t.Fatalf("%q: %+v, want %+v", body, o, w)
			}
		}
	})
}
