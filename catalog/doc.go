// Package catalog knows what is in a repository and how it is found: the layout of keys, the repository's and clusters'
// descriptions, manifests of backups, the index of archived WAL, recovery windows, the restore planner and leases.
//
// It is the only package that turns names into keys. Objects with user data (WAL, packs, manifests) go through
// [Repository.Put], which refuses plain bytes in an encrypted repository; the few JSON objects that coordinate hosts
// (repo.json, cluster.json, leases, sweep lists, holds) hold no user data and have a typed method each.
//
// The planner ([PlanRestore], [Windows]) is pure: it sees a [Facts] value and asks for headers of single segments through
// [SegmentFacts]; it never reads a store by itself.
package catalog
