#!/bin/bash
# Installs a Rust compiler for BPF into a folder of the project: no root, nothing installed system-wide.
#
#   scripts/bpf-toolchain.sh DIR      afterwards: DIR/bin/{rustc,clippy-driver,bpf-linker}, DIR/.ok
#
# Rust's own distribution has no standard library for BPF; building one needs a nightly compiler and the
# component rust-src. Debian has a prebuilt `core` for bpfel-unknown-none in its package
# libstd-rust-web-dev-bpf. This script unpacks that package, its compiler and the LLVM they share, then builds
# bpf-linker against the same LLVM. The folder may be moved: nothing in it holds an absolute path.
set -euo pipefail

LINKER_VERSION=0.13.0

fail() {
    printf 'bpf-toolchain: %s\n' "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

progress() { printf 'bpf-toolchain: %s\n' "$*" >&2; }

installed() {
    [ -f "$1/.ok" ] && [ "$(cut -d' ' -f2 "$1/.ok")" = "$LINKER_VERSION" ] &&
        "$1/bin/rustc" --version >/dev/null 2>&1 && "$1/bin/clippy-driver" --version >/dev/null 2>&1 &&
        "$1/bin/bpf-linker" --version >/dev/null 2>&1
}

[ $# -eq 1 ] || fail "usage: scripts/bpf-toolchain.sh DIR"
mkdir -p "$(dirname "$1")"
TARGET=$(readlink -f "$1")
# Everything is made in STAGING and renamed at the end, so an interrupted run leaves no half of a toolchain.
STAGING=$TARGET.partial

# Only one run at a time. The lock is given back when this shell ends, however it ends.
exec 9>"$TARGET.lock"
flock 9 || fail "cannot lock $TARGET.lock"
installed "$TARGET" && exit 0

for tool in apt-get apt-cache dpkg-deb flock; do
    command -v "$tool" >/dev/null || fail "'$tool' is missing; this recipe needs Debian's package tools." \
        "Elsewhere use rustup and bpf-linker, which 'cargo xtask build-ebpf' prefers when it finds them:" \
        "rustup toolchain install nightly --component rust-src" \
        "cargo install bpf-linker --version $LINKER_VERSION"
done
CARGO=${CARGO:-cargo}
command -v "$CARGO" >/dev/null || fail "'cargo' is missing; install Rust from https://rustup.rs"
command -v cc >/dev/null || fail "a C compiler is missing (it links bpf-linker)." "Install it: apt-get install gcc libc6-dev"

# The Rust packages must be of one version; the LLVM is the one that this compiler was built with.
VERSION=$(apt-cache policy libstd-rust-web-dev-bpf | awk '/Candidate:/ {print $2}')
if [ -z "$VERSION" ] || [ "$VERSION" = "(none)" ]; then
    fail "apt offers no package 'libstd-rust-web-dev-bpf'." \
        "If the package lists are missing or old, run (as root): apt-get update" \
        "Debian 12 has it in its updates. Where it does not exist, use rustup and bpf-linker:" \
        "rustup toolchain install nightly --component rust-src" \
        "cargo install bpf-linker --version $LINKER_VERSION"
fi
STD=$(apt-cache depends "libstd-rust-web-dev=$VERSION" | awk '/Depends: libstd-rust-web-/ {print $2; exit}')
[ -n "$STD" ] || fail "libstd-rust-web-dev=$VERSION names no standard library; run (as root): apt-get update"
LLVM=$(apt-cache depends "$STD=$VERSION" | awk '/Depends: libllvm[0-9]+$/ {print $2; exit}')
[ -n "$LLVM" ] || fail "$STD=$VERSION names no LLVM; run (as root): apt-get update"
LLVM_MAJOR=${LLVM#libllvm}

trap 'rm -rf "$STAGING"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$STAGING"
mkdir -p "$STAGING/debs" "$STAGING/sys" "$STAGING/bin" "$STAGING/llvm/lib"

progress "fetching rustc-web $VERSION and $LLVM (about 120 MB)"
# apt's unprivileged download user may not enter the folder, hence the sandbox option.
(cd "$STAGING/debs" && apt-get download -qq -o APT::Sandbox::User=root \
    "rustc-web=$VERSION" "rust-web-clippy=$VERSION" "$STD=$VERSION" "libstd-rust-web-dev=$VERSION" "libstd-rust-web-dev-bpf=$VERSION" \
    "$LLVM") || fail "the download failed; check the network, or run (as root): apt-get update"

progress "unpacking"
for package in "$STAGING"/debs/*.deb; do
    dpkg-deb -x "$package" "$STAGING/sys"
done
rm -rf "$STAGING/debs" "$STAGING/sys/usr/share" "$STAGING/sys/usr/bin/rustdoc" \
    "$STAGING/sys/usr/lib/rustlib/bpfeb-unknown-none"

LIBLLVM=$(find "$STAGING/sys/usr/lib" -name "libLLVM.so.$LLVM_MAJOR.*" | head -n 1)
[ -n "$LIBLLVM" ] || fail "$LLVM holds no libLLVM.so.$LLVM_MAJOR.*; the packages changed, please report it"
LIBRARIES=${LIBLLVM%/*}
LIBRARIES=${LIBRARIES#"$STAGING"/}
ln -s "../../$LIBRARIES/${LIBLLVM##*/}" "$STAGING/llvm/lib/libLLVM.so"
ln -s "../../$LIBRARIES/${LIBLLVM##*/}" "$STAGING/llvm/lib/${LIBLLVM##*/}"
ln -s sys/usr/lib "$STAGING/lib"

# Starts a program of the toolchain with the libraries of the toolchain.
wrapper() {
    cat >"$STAGING/bin/$1" <<EOF
#!/bin/sh
root=\$(dirname "\$(dirname "\$(readlink -f "\$0")")")
LD_LIBRARY_PATH="\$root/$LIBRARIES\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "\$root/$2" "\$@"
EOF
    chmod +x "$STAGING/bin/$1"
}

wrapper rustc sys/usr/bin/rustc
wrapper clippy-driver sys/usr/bin/clippy-driver

progress "building bpf-linker $LINKER_VERSION for LLVM $LLVM_MAJOR (about a minute)"
# Settings of the caller's own build must not leak into this one.
env -u CARGO_ENCODED_RUSTFLAGS -u RUSTFLAGS -u RUSTC -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER \
    LLVM_PREFIX="$STAGING/llvm" CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_TARGET_DIR="$STAGING/linker-build" \
    "$CARGO" install --quiet bpf-linker --version "$LINKER_VERSION" --locked \
    --no-default-features --features "llvm-$LLVM_MAJOR" --root "$STAGING/linker" ||
    fail "bpf-linker did not build (the reason stands above)"
rm -rf "$STAGING/linker-build"
wrapper bpf-linker linker/bin/bpf-linker

"$STAGING/bin/rustc" -vV | grep -E '^(release|LLVM)' >&2 || fail "the unpacked rustc does not run"
"$STAGING/bin/bpf-linker" --version >&2 || fail "the built bpf-linker does not run"
echo "$VERSION $LINKER_VERSION" >"$STAGING/.ok"

rm -rf "$TARGET"
mv "$STAGING" "$TARGET"
progress "ready in $TARGET"
