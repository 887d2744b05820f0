# Images: built from files by buildah, handed to each node's containerd.

load() {
    local name=$1 directory=$2 archive=$state/image-$$.tar
    buildah --storage-driver vfs build -q -t "$name" "$directory" >/dev/null
    buildah --storage-driver vfs push -q "$name" "oci-archive:$archive:$name"
    local socket
    for socket in /run/e2e-node*/containerd.sock; do
        "$programs/ctr" -a "$socket" -n k8s.io images import "$archive" >/dev/null
    done
    rm -f "$archive"
}

pause_image() {
    local directory=$state/pause
    mkdir -p "$directory"
    gcc -O2 -static -o "$directory/pause" "$here/pause.c"
    printf 'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n' >"$directory/Dockerfile"
    load localhost/pause:1 "$directory"
}
