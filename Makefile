# pgstow: build, checks, tests. `make help` lists the targets. Each installs what it lacks: programs from Go modules and other
# majors of PostgreSQL into .cache/, the rest by apt-get.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:
.DELETE_ON_ERROR:

CACHE := $(CURDIR)/.cache
export CACHE

# Where a job has no home folder, the go command and npm still need one.
ifeq ($(shell test -d "$${HOME-}" -a -w "$${HOME-}" && echo yes),)
export HOME := $(CACHE)/home
$(shell mkdir -p $(CACHE)/home)
endif
export PATH := $(PATH):/usr/local/go/bin
ifeq ($(shell PATH="$$PATH:/usr/local/go/bin" command -v go),)
$(error there is no go command: install Go 1.26 from https://go.dev/dl)
endif

TAGS := urfave_cli_no_docs
VERSION := $(shell git -C $(CURDIR) describe --tags --always --dirty 2>/dev/null || echo development)
# The version is stamped by hand: a checkout that belongs to somebody else makes the go command's own stamp an error.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

STORE ?= file
ENCRYPT ?=
FUZZTIME ?= 10s
ROUNDS ?= 100
MAJORS ?= 13 14 15 16 17 18
# Packages to test, and how many of them at once.
PKG ?= ./...
P ?= 2
RUN ?=
# Flags of the benchmark program: `go run ./test/bench -help`.
ARGS ?=

GOTEST := go test -tags $(TAGS) -p $(P) -vet=off $(if $(RUN),-run '$(RUN)')
# A test that lacks its server is skipped by a plain `go test` and fails here.
REQUIRE := PGSTOW_TEST_REQUIRE=1

.PHONY: build
build: ## the two programs, static, into bin/
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/pgstow ./cmd/pgstow-wal

## -- checks

.PHONY: check
check: lint-tools ## gofmt, go vet, staticcheck, golangci-lint, import law
	@bad=$$(find . -name '*.go' -not -path './.*' -exec gofmt -l {} +); \
	if [ -n "$$bad" ]; then printf 'gofmt would change:\n%s\n' "$$bad"; exit 1; fi
	go vet -tags $(TAGS) ./...
	$(CACHE)/bin/staticcheck -tags $(TAGS) ./...
	$(CACHE)/bin/golangci-lint run ./...
	go test -tags $(TAGS) -vet=off ./test/law

.PHONY: fmt
fmt: ## gofmt all files
	find . -name '*.go' -not -path './.*' -exec gofmt -w {} +

## -- tests

.PHONY: test
test: deps ## all tests, end to end included: PostgreSQL 15, recovery on 13 to 18, MinIO (PKG=./wal/... RUN=regexp to choose)
	$(REQUIRE) $(GOTEST) -timeout 20m $(PKG)

.PHONY: test-short
test-short: ## what needs less than a minute
	$(GOTEST) -short -timeout 5m $(PKG)

.PHONY: test-matrix
test-matrix: deps ## the tests over all majors (MAJORS="13 17")
	$(REQUIRE) PGSTOW_TEST_MAJORS='$(MAJORS)' $(GOTEST) -timeout 60m $(PKG)

.PHONY: race
race: deps ## all tests with the race detector; needs a C compiler
	$(REQUIRE) CGO_ENABLED=1 $(GOTEST) -race -timeout 40m $(PKG)

.PHONY: chaos
chaos: deps ## crash and outage tests with ROUNDS=100 rounds each
	$(REQUIRE) PGSTOW_TEST_ROUNDS=$(ROUNDS) $(GOTEST) -count=1 -v -timeout 4h -run '$(or $(RUN),Chaos|Crash|Kill|Outage|Fault)' $(PKG)

.PHONY: huge
huge: ## archives of a million segments: times, requests, memory
	PGSTOW_TEST_ROUNDS=10 $(GOTEST) -count=1 -v -timeout 30m ./test/huge

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME=10s
	@for pkg in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -r -n1 dirname | sort -u); do \
	  for target in $$(go test -tags $(TAGS) -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$target"; \
	    go test -tags $(TAGS) -vet=off -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

.PHONY: bench
bench: debian minio build ## whole runs of pgstow against tar and zstd, as ratios (ARGS="-scale 20 -only file")
	PGSTOW_TEST_BIN=$(CURDIR)/bin go run ./test/bench $(ARGS)

.PHONY: bench-wal
bench-wal: debian minio build ## push, fetch, recovery and streaming against one process that does all at once, and cp
	PGSTOW_TEST_BIN=$(CURDIR)/bin go run ./test/bench -only wal-push,wal-fetch,recovery,receive $(ARGS)

.PHONY: demo
demo: debian build $(if $(filter minio,$(STORE)),minio) ## back up, destroy, restore to before a dropped table (STORE=minio, ENCRYPT=1)
	go run ./test/demo -bin bin -store '$(STORE)' $(if $(filter-out 0,$(ENCRYPT)),-encrypt)

## -- what they need

.PHONY: deps
deps: debian minio $(addprefix postgres-,13 14 15 16 17 18)

.PHONY: debian
debian: ## PostgreSQL 15 and its clients, zstd, age, jq, by apt-get
	@test/tools/install.sh debian

# A major of PostgreSQL: 15 from Debian, the others into .cache/pg.
.PHONY: postgres-15
postgres-15: debian
postgres-%: FORCE
	@test/tools/install.sh postgres $*
.PHONY: FORCE
FORCE:

# Tools are built from modules of their own. The stamp's name holds the hash of what pins their versions.
pinned = $(CACHE)/stamp/$(1)-$(shell cat test/tools/$(1)/go.mod test/tools/$(1)/go.sum | sha256sum | cut -c1-12)
MINIO_STAMP := $(call pinned,minio)
LINT_STAMP := $(call pinned,lint)

.PHONY: minio
minio: $(MINIO_STAMP) ## the S3 server of the tests (the first build takes minutes)
.PHONY: lint-tools
lint-tools: $(LINT_STAMP)

$(MINIO_STAMP):
	@echo 'building MinIO: some minutes, once'
	@mkdir -p $(CACHE)/bin $(@D)
	cd test/tools/minio && CGO_ENABLED=0 go build -o $(CACHE)/bin/minio github.com/minio/minio
	@touch $@

$(LINT_STAMP):
	@echo 'building the linters: some minutes, once'
	@mkdir -p $(CACHE)/bin $(@D)
	cd test/tools/lint && CGO_ENABLED=0 go build -o $(CACHE)/bin/ honnef.co/go/tools/cmd/staticcheck github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

.PHONY: clean
clean: ## remove what was built, keep the tools in .cache
	rm -rf bin .cache/test-bin .cache/test-bin.lock
	find . -path ./.cache -prune -o \( -name '*.test' -o -name '*.prof' \) -type f -exec rm -f {} +

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
