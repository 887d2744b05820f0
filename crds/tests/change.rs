//! What a changed manifest asks of a running cluster.

use crds::change::{Effect, changes, effect, settings};
use crds::{SipCluster, parse};

fn cluster(spec: &str) -> SipCluster {
    let text = format!(
        "apiVersion: sipcluster.dev/v1alpha1\nkind: SipCluster\nmetadata: {{name: demo}}\nspec: {{application: {{answer: {{ring: 1s}}}}{spec}}}\n"
    );
    parse(&text).unwrap_or_else(|problems| panic!("{spec}: {problems:?}"))
}

/// The changes from the smallest manifest, one a line.
fn told(to: &SipCluster) -> String {
    let changes = changes(&cluster(""), to).expect("it can be changed");
    changes.iter().map(|change| format!("{change}\n")).collect()
}

#[test]
fn what_is_the_same_however_it_is_written_is_no_change() {
    let written_out =
        ", replicas: 3, redis: {}, dispatcher: {port: 5060, transports: [udp, tcp]}, containers: {quiesce: 20000ms}";
    assert_eq!(told(&cluster(written_out)), "");
}

#[test]
fn a_change_is_told_with_both_values_and_what_it_takes() {
    let mut to = cluster(", replicas: 5, proxies: {replicas: 3, workers: 2}, dispatcher: {transports: [tcp]}");
    to.spec.application.answer.as_mut().expect("it answers").ring = crds::Period::from_secs(2);
    assert_eq!(
        told(&to),
        "spec.application.answer.ring: 1s -> 2s: containers are replaced one at a time\n\
         spec.dispatcher.transports: [\"udp\",\"tcp\"] -> [\"tcp\"]: proxies are replaced one at a time\n\
         spec.proxies.replicas: 2 -> 3: no restart\n\
         spec.proxies.workers: nothing -> 2: proxies are replaced one at a time\n\
         spec.replicas: 3 -> 5: no restart\n"
    );
}

#[test]
fn what_a_running_cluster_cannot_change_is_refused_with_field_value_and_remedy() {
    let mut to = cluster(
        ", replicas: 5, partitions: 512, dispatcher: {address: 127.0.0.2, port: 5070, advertised: 192.0.2.1}, replication: {lease: 3s}, \
         redis: {external: {url: \"redis://127.0.0.1\"}}",
    );
    to.metadata.name = Some("other".into());
    let problems = changes(&cluster(""), &to).expect_err("it cannot be changed");
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "metadata.name",
            "spec.dispatcher.address",
            "spec.dispatcher.advertised",
            "spec.dispatcher.port",
            "spec.partitions",
            "spec.redis.external.instances",
            "spec.redis.external.url",
            "spec.replication.lease",
        ]
    );
    assert_eq!(
        problems[4].to_string(),
        "spec.partitions: 512: it cannot be changed while the cluster runs: calls carry the number of their partition; \
         put back 1024, or start another cluster"
    );
}

/// Each field of the reference has its row in the table.
#[test]
fn every_field_of_a_manifest_has_an_effect() {
    let page = crds::reference();
    let fields: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert!(fields.len() > 20, "{fields:?}");
    let holds_others = |field: &str| fields.iter().any(|other| other.starts_with(&format!("{field}.")));
    for field in &fields {
        assert!(effect(field).is_some() || holds_others(field), "{field} has no effect");
    }
    assert_eq!(effect("spec.replicasOfWhat"), None);
}

#[test]
fn settings_differ_for_those_alone_who_are_to_be_replaced() {
    let kinds = [Effect::RollsContainers, Effect::RollsProxies];
    let of = |cluster: &SipCluster| kinds.map(|effect| settings(cluster, effect));
    let [containers, proxies] = of(&cluster(""));
    assert!(
        containers.contains("spec.application.answer.ring=1s\n") || containers.contains("\"ring\":\"1s\""),
        "{containers}"
    );
    assert_eq!(
        of(&cluster(", replicas: 5, proxies: {replicas: 3}")),
        [containers.clone(), proxies.clone()]
    );
    let [more_workers, same] = of(&cluster(", containers: {workers: 2}"));
    assert!(more_workers != containers && same == proxies);
    let [same, fewer_transports] = of(&cluster(", dispatcher: {transports: [udp]}"));
    assert!(same == containers && fewer_transports != proxies);
}
