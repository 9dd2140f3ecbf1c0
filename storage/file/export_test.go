package file

// Link is the atomic create, for the case of a retransmission that no local file system shows.
var Link = link
