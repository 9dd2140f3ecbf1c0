// Package restore turns a backup of the repository into a data directory that PostgreSQL 13 to 18 can start.
//
// [Plan] gathers what the store knows, asks the pure planner of package catalog whether and how the target can be
// reached, and looks at the directory, the tablespaces, the owner and the free space: nothing is written and no page is
// read. [Run] carries a plan out.
//
// The order of writing is what makes an interrupted restore harmless: the data, then everything recovery needs, all of
// it on stable storage, and global/pg_control last, by rename. A directory without it cannot be started. Until then a
// marker file ([MarkerName]) names backup and plan, so the same restore can be run again in the same directory and goes
// on: pages that are already right are kept, by their hash.
package restore
