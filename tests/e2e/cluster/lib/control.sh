# etcd and API server; but for one that is alone the controller manager, and with nodes a scheduler, DNS, the load balancer and who
# enforces NetworkPolicies. Everybody is known by a token.

control_plane() {
    local n audit=()
    if [ "$nodes" -eq 0 ]; then
        audit=(--audit-policy-file "$state/audit.yaml" --audit-log-path "$state/log/audit.log" --audit-log-maxsize 0)
        # What begins with a brace would be taken for JSON.
        printf '%s\n' 'apiVersion: audit.k8s.io/v1' 'kind: Policy' 'omitStages: [RequestReceived]' 'rules: [{level: Metadata}]' >"$state/audit.yaml"
    fi
    openssl genrsa -out "$state/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$state/accounts.key" -pubout -out "$state/accounts.pub" 2>/dev/null
    user admin admin '"system:masters"'
    user controllers system:kube-controller-manager
    user scheduler system:kube-scheduler
    user kube-proxy system:kube-proxy '"system:node-proxier"'
    for ((n = 0; n < nodes; n++)); do user "node$n" "system:node:node$n" '"system:nodes"'; done
    # Nothing of it outlives the machine, so nothing waits for the disk.
    background etcd $hub "$programs/server" --data-dir "$state/etcd" --unsafe-no-fsync \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
    background apiserver $hub "$programs/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
        --cert-dir "$state/apiserver" --advertise-address $master --secure-port 6443 \
        --service-cluster-ip-range 198.19.0.0/16 --authorization-mode Node,RBAC --token-auth-file "$state/tokens.csv" \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$state/accounts.pub" \
        --service-account-signing-key-file "$state/accounts.key" --allow-privileged --kubelet-preferred-address-types InternalIP "${audit[@]}"
    wait_for "the API server" kubectl get --raw /readyz
    [ -n "$controllers" ] || return 0
    controller_manager
    [ "$nodes" -eq 0 ] || background scheduler $hub "$programs/kube-scheduler" --kubeconfig "$state/scheduler.kubeconfig" --leader-elect=false
}

controller_manager() {
    background controllers $hub "$programs/kube-controller-manager" --kubeconfig "$state/controllers.kubeconfig" \
        --use-service-account-credentials --service-account-private-key-file "$state/accounts.key" \
        --root-ca-file "$state/apiserver/apiserver.crt" --cluster-cidr 198.18.0.0/20 --allocate-node-cidrs \
        --service-cluster-ip-range 198.19.0.0/16 --leader-elect=false --controllers "$controllers" --node-monitor-grace-period "${E2E_NODE_GRACE:-40s}"
}

# One that elects a leader ends when it cannot renew its Lease, and is started again with patience for every node. Ours, left alone, would take all
# nodes for lost the moment the API server is back, since none has renewed its own, and no proxy would be served until they have.
api() {
    local signal=${1^^}
    [ "$signal" != STOP ] || kill "$(cat "$state/pid/controllers")"
    kill "-$signal" "$(cat "$state/pid/apiserver")"
    [ "$signal" != CONT ] || controller_manager
}

# user NAME KUBERNETES-NAME [GROUP]: may come in by NAME.kubeconfig.
user() {
    local token
    token=$(openssl rand -hex 16)
    echo "$token,$2,$1${3:+,$3}" >>"$state/tokens.csv"
    cat >"$state/$1.kubeconfig" <<KUBECONFIG
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "$api", insecure-skip-tls-verify: true}}]
users: [{name: $1, user: {token: "$token"}}]
contexts: [{name: e2e, context: {cluster: e2e, user: $1}}]
current-context: e2e
KUBECONFIG
}

services() {
    cat >"$state/Corefile" <<COREFILE
.:53 {
  errors
  kubernetes cluster.local { kubeconfig $state/admin.kubeconfig
  }
}
COREFILE
    background coredns $hub "$programs/coredns" -conf "$state/Corefile"
    local addresses=() n
    for ((n = 0; n < nodes; n++)); do addresses+=("198.18.255.$((10 + n))"); done
    background loadbalancer $hub "$programs/loadbalancer" "$state/admin.kubeconfig" e2e-client 198.18.254 "${addresses[@]}"
    background policies $hub "$programs/policies" "$state/admin.kubeconfig" /var/lib/cni/results/e2e-
}
