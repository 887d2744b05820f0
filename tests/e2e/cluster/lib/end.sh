# The end: first whoever would start anything again, then pods, then what carries them; nothing is left.

down() {
    [ -d "$state" ] || return 0
    if [ "$nodes" -eq 0 ]; then
        end controllers apiserver etcd
        if [ -e "/run/netns/$hub" ]; then ip netns delete "$hub"; fi
        rm -rf "$state"
        return
    fi
    local socket id ids spaces=()
    end loadbalancer policies 'kube-proxy*' 'kubelet*' coredns scheduler controllers apiserver
    for socket in /run/e2e-node*/containerd.sock; do
        [ -S "$socket" ] || continue
        ids=$("$programs/ctr" -a "$socket" -n k8s.io containers ls -q 2>/dev/null) || continue
        # Each pod's network namespace has a name that only its container's specification tells; what its network is stands in a file of its container's name.
        for id in $ids; do
            rm -f "/var/lib/cni/results/"*"-$id-"*
            spaces+=($("$programs/ctr" -a "$socket" -n k8s.io containers info "$id" 2>/dev/null | grep -o '/run/netns/cni-[0-9a-f-]*' || true))
        done
        ids=$("$programs/ctr" -a "$socket" -n k8s.io tasks ls -q 2>/dev/null) || continue
        for id in $ids; do "$programs/ctr" -a "$socket" -n k8s.io tasks kill -s 9 "$id" 2>/dev/null || true; done
    done
    sleep 0.5
    for socket in /run/e2e-node*/containerd.sock; do
        [ -S "$socket" ] || continue
        ids=$("$programs/ctr" -a "$socket" -n k8s.io containers ls -q 2>/dev/null) || continue
        for id in $ids; do "$programs/ctr" -a "$socket" -n k8s.io containers rm "$id" 2>/dev/null || true; done
    done
    end 'containerd*' etcd
    shims
    grep -oE " (/run/e2e-node|$state)[^ ]*" /proc/mounts | sort -r | xargs -r -n1 umount -l 2>/dev/null || true
    local namespace
    for namespace in $(find /run/netns -maxdepth 1 -name 'e2e-*' -printf '%f\n' 2>/dev/null); do ip netns delete "$namespace"; done
    for namespace in $(printf '%s\n' "${spaces[@]##*/}" | sort -u); do
        if [ -e "/run/netns/$namespace" ]; then ip netns delete "$namespace"; fi
    done
    find /sys/fs/cgroup -maxdepth 2 -type d -name 'e2e-node*' 2>/dev/null | while read -r group; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$state" /run/e2e-node*
}

# end NAME...: tells these programs of ours to end and waits for them, ten seconds at most.
end() {
    local name file pid pids=()
    for name in "$@"; do
        for file in "$state"/pid/$name; do
            [ -f "$file" ] || continue
            pid=$(cat "$file")
            # One that is frozen hears nothing.
            kill -CONT "$pid" 2>/dev/null || true
            kill "$pid" 2>/dev/null && pids+=("$pid")
            rm -f "$file"
        done
    done
    local _
    for pid in "${pids[@]}"; do
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || continue 2
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    done
}

# What containerd leaves: the shims of this cluster's pods, known by their socket's directory.
shims() {
    local pid
    for pid in $(ls /proc); do
        [[ $pid =~ ^[0-9]+$ ]] || continue
        if { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q "^$programs/containerd-shim.* -address /run/e2e-node"; then
            kill -9 "$pid" 2>/dev/null || true
        fi
    done
}
