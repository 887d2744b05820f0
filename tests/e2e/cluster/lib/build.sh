# The programs, all of one Go module: they share their libraries, so nothing compiles twice.

packages=(
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl}
    helm.sh/helm/v4/cmd/helm
    github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
    go.etcd.io/etcd/server/v3
    ./coredns ./loadbalancer ./policies
)

# All that an API server alone takes, with etcd (`server`).
few=(server kube-apiserver kubectl helm)

build() {
    if [ -z "$controllers" ]; then
        program "${few[@]}" >/dev/null
        return
    fi
    compile "$programs.new" "${packages[@]}"
    rm -rf "$programs"
    mv "$programs.new" "$programs"
}

# program NAME...: where they lie; those that are not there are built, and they alone.
program() {
    local name package missing=()
    for name in "$@"; do
        [ ! -x "$programs/$name" ] || continue
        package=$(package_of "$name")
        missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        mkdir -p "$programs"
        # Others may ask for them at the same time.
        scratch=$(mktemp -d "$programs/XXXXXX")
        trap 'rm -rf "$scratch"' EXIT
        compile "$scratch" "${missing[@]}"
        mv "$scratch"/* "$programs/"
    fi
    printf "$programs/%s\n" "$@"
}

# package_of NAME: as Go names programs, by the last part of their path that is no version.
package_of() {
    local package path
    for package in "${packages[@]}"; do
        path=${package%/v[0-9]}
        [ "${path##*/}" != "$1" ] || break
    done
    [ "${path##*/}" = "$1" ] || fail "$1 is none of its programs"
    echo "$package"
}

# compile DIR PACKAGE...
compile() {
    local directory=$1
    shift
    # Without it the server calls itself v0.0.0, and charts that ask for a Kubernetes version refuse it.
    local stamp="-s -w -X k8s.io/component-base/version.gitVersion=v$version"
    stamp+=" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"
    command -v go >/dev/null || fail "Go is missing: install 1.26 or later from https://go.dev/dl"
    mkdir -p "$directory"
    (cd "$here" && CGO_ENABLED=0 go build -trimpath -tags no_btrfs,no_devmapper,no_zfs -ldflags "$stamp" -o "$directory/" "$@")
}
