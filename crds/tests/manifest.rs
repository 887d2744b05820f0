//! A manifest is read to final values, or refused by naming the field, the value and the remedy.

use crds::{Answer, Period, SipCluster, Transport, parse};

const SMALLEST: &str = "
apiVersion: sipcluster.dev/v1alpha1
kind: SipCluster
metadata: {name: demo}
spec:
  application: {answer: {}}
";

/// The smallest manifest with `spec` in place of its own.
fn with_spec(spec: &str) -> String {
    let (head, _) = SMALLEST.split_once("spec:").expect("a spec");
    format!("{head}spec: {spec}\n")
}

/// The problems of a manifest, one a line.
fn problems(manifest: &str) -> String {
    let problems = parse(manifest).expect_err("it is wrong");
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn smallest_manifest_gets_the_documented_defaults() {
    let cluster: SipCluster = parse(SMALLEST).expect("a manifest");
    let spec = &cluster.spec;
    assert_eq!((spec.replicas, spec.partitions, spec.proxies.replicas), (3, 1024, 2));
    assert_eq!(spec.advertised().to_string(), "127.0.0.1:5060");
    assert_eq!(spec.dispatcher.transports, [Transport::Udp, Transport::Tcp]);
    assert_eq!((spec.external_redis(), spec.redis_instances()), (None, 1));
    let answer = spec.application.answer.as_ref().expect("an application");
    assert_eq!(*answer, Answer::default());
    assert_eq!(answer.session_expires, Period::from_secs(1800));
}

#[test]
fn examples_are_good() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut read = 0;
    for file in std::fs::read_dir(examples)
        .expect("examples")
        .map(|entry| entry.expect("an entry").path())
    {
        if file.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&file).expect("a text");
            parse(&text).unwrap_or_else(|problems| panic!("{}: {problems:?}", file.display()));
            read += 1;
        }
    }
    assert!(read > 0, "no example was read");
}

#[test]
fn a_wrong_value_names_field_value_and_remedy() {
    let cases = [
        (
            "{application: {answer: {}}, replicas: 0}",
            "spec.replicas: 0: this is too small; write a whole number from 1 to 64\n",
        ),
        (
            "{application: {answer: {}}, replicas: 65}",
            "spec.replicas: 65: this is too large; write a whole number from 1 to 64\n",
        ),
        (
            "{application: {answer: {}}, replicas: three}",
            "spec.replicas: \"three\": a value of type integer belongs here; write a whole number from 1 to 64\n",
        ),
        (
            "{application: {answer: {}}, proxies: {emergency: [112]}}",
            "spec.proxies.emergency[0]: 112: a value of type string belongs here; \
             write a number as it is dialled, in quotes, such as \"112\", or a service, such as urn:service:police\n",
        ),
        (
            "{application: {answer: {}}, proxies: {emergency: [\"112\", \"112,911\"]}}",
            "spec.proxies.emergency[1]: \"112,911\": it does not read like one; \
             write a number as it is dialled, in quotes, such as \"112\", or a service, such as urn:service:police\n",
        ),
        (
            "{application: {answer: {ring: 3}}}",
            "spec.application.answer.ring: 3: a value of type string belongs here; write a whole number and its unit: 500ms, 3s, 30m or 1h\n",
        ),
        (
            "{application: {answer: {ring: 3 secs}}}",
            "spec.application.answer.ring: \"3 secs\": it does not read like one; write a whole number and its unit: 500ms, 3s, 30m or 1h\n",
        ),
        (
            "{application: {answer: {sessionExpires: 10s}}}",
            "spec.application.answer.sessionExpires: 10s: RFC 4028 allows no session timer below 90s; write 90s or more; 30m is usual\n",
        ),
        (
            "{application: {answer: {sessionExpires: 25h}}}",
            "spec.application.answer.sessionExpires: 25h: a lost peer would be noticed after more than a day; write 24h or less; 30m is usual\n",
        ),
        (
            "{application: {answer: {}}, proxies: {nodeSelector: {edge: yes, zone: 7}}}",
            "spec.proxies.nodeSelector.zone: 7: a value of type string belongs here; write a text\n",
        ),
        (
            "{application: {answer: {}}, containers: {resources: {requests: {cpu: 1, memory: 1.5Gi}, limits: {cpu: 0.5, memory: 2 gb}}}}",
            "spec.containers.resources.limits.cpu: 0.5: it is no amount; write an amount such as 2, 500m or 256Mi; with a point in quotes\n\
             spec.containers.resources.limits.memory: \"2 gb\": it does not read like one; \
             write an amount such as 2, 500m or 256Mi; with a point in quotes\n",
        ),
        (
            "{application: {answer: {}}, replication: {lease: 10ms}}",
            "spec.replication.lease: 10ms: this is too short; write a period from 100ms to 10m\n",
        ),
        (
            "{application: {answer: {}}, containers: {quiesce: 25h}}",
            "spec.containers.quiesce: 25h: this is too long; write a period from 0s to 24h\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {address: localhost}}",
            "spec.dispatcher.address: \"localhost\": it does not read like one; write an IP address such as 127.0.0.1 or ::1\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {transports: [udp, sctp]}}",
            "spec.dispatcher.transports[1]: \"sctp\": this is not known; write udp or tcp\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {transports: []}}",
            "spec.dispatcher.transports: []: 0 entries are too few; write 1 to 2 of them\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {transports: [udp, udp]}}",
            "spec.dispatcher.transports: [udp, udp]: a transport stands there twice; write [udp, tcp]\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {address: 0.0.0.0}}",
            "spec.dispatcher.address: 0.0.0.0: peers cannot send to it, and it would stand in Via, Record-Route and Contact; \
             set spec.dispatcher.advertised to the address by which peers reach this cluster\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {advertised: 'ff02::1'}}",
            "spec.dispatcher.advertised: ff02::1: peers cannot send to it, and it would stand in Via, Record-Route and Contact; \
             set spec.dispatcher.advertised to the address by which peers reach this cluster\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {}, advertised: 192.0.2.1}}",
            "spec.dispatcher.advertised: 192.0.2.1: with hostNetwork each proxy has its node's address; leave it out, and write a name that \
             leads to all of them into spec.dispatcher.hostNetwork.host\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {}, service: {type: NodePort, nodePort: 30000}}}",
            "spec.dispatcher.service.nodePort: 30000: with hostNetwork nothing stands in front of the proxies; leave it out\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {}, service: {externalTrafficPolicy: Cluster}}}",
            "spec.dispatcher.service.externalTrafficPolicy: Cluster: with hostNetwork nothing stands in front of the proxies; leave it out\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {}, port: 506}}",
            "spec.dispatcher.port: 506: proxies have no privileges in their nodes' network; write a number from 1024 on\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {ucfPort: 5060}}}",
            "spec.dispatcher.hostNetwork: 5060, 5060 and 9090: a proxy cannot listen twice at one port of its node; \
             write different numbers for spec.dispatcher.port, ucfPort and adminPort\n",
        ),
        (
            "{application: {answer: {}}, dispatcher: {hostNetwork: {host: 192.0.2.1}}}",
            "spec.dispatcher.hostNetwork.host: \"192.0.2.1\": it does not read like one; write a host name in small letters, such as sip.example.com\n",
        ),
        (
            "{application: {answer: {}}, redis: {managed: {}, external: {url: redis://localhost}}}",
            "spec.redis: managed and external: they exclude one another; leave one out\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: localhost}}}",
            "spec.redis.external.url: \"localhost\": it does not read like one; write a URL such as redis://10.0.0.7:6379/0, \
             redis-sentinel://10.0.0.7:26379,10.0.0.8:26379#MASTER or redis-cluster://10.0.0.7:6379,10.0.0.8:6379; with rediss for TLS\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: 'redis-cluster://10.0.0.7/2'}}}",
            "spec.redis.external.url: \"redis-cluster://10.0.0.7/2\": it does not read like one; write a URL such as redis://10.0.0.7:6379/0, \
             redis-sentinel://10.0.0.7:26379,10.0.0.8:26379#MASTER or redis-cluster://10.0.0.7:6379,10.0.0.8:6379; with rediss for TLS\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: 'redis-sentinel://10.0.0.7:26379'}}}",
            "spec.redis.external.url: \"redis-sentinel://10.0.0.7:26379\": it does not read like one; write a URL such as redis://10.0.0.7:6379/0, \
             redis-sentinel://10.0.0.7:26379,10.0.0.8:26379#MASTER or redis-cluster://10.0.0.7:6379,10.0.0.8:6379; with rediss for TLS\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {instances: 1}}}",
            "spec.redis.external: neither url nor secret: one of them says where Redis is; write its url, or the secret that holds it\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: redis://10.0.0.7, secret: {name: redis}}}}",
            "spec.redis.external: url and secret: one of them says where Redis is; write its url, or the secret that holds it\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: rediss://10.0.0.7}}}",
            "spec.redis.external: a url of TLS, and no CA: TLS takes both; \
             write a url that begins with rediss and a CA (caSecret; on one machine caFile), or neither\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: redis://10.0.0.7, caSecret: {name: ca}}}}",
            "spec.redis.external: a CA, and a url without TLS: TLS takes both; \
             write a url that begins with rediss and a CA (caSecret; on one machine caFile), or neither\n",
        ),
        (
            "{application: {answer: {}}, redis: {external: {url: redis://10.0.0.7, instances: 10}}}",
            "spec.redis.external.instances: 10: this is too large; write a whole number from 1 to 9\n",
        ),
        (
            "{application: {answer: {}}, redis: {managed: {instances: 2}}}",
            "spec.redis.managed.instances: 2: with an even number no more of them may be lost than with one less; write 1, 3 or 5\n",
        ),
        (
            "{application: {answer: {}}, redis: {managed: {instances: 7}}}",
            "spec.redis.managed.instances: 7: this is too large; write a whole number from 1 to 5\n",
        ),
        (
            "{application: {answer: {}}, replication: {mode: asynchronous}}",
            "spec.replication.mode: \"asynchronous\": this is not known; write acknowledged\n",
        ),
        (
            "{application: {answer: {}}, replicas: 3, partitions: 2}",
            "spec.partitions: 2: fewer partitions than the 3 containers: \
          some would have nothing to do; leave it out (1024), or write several hundred per container\n",
        ),
        (
            "{application: {answer: {}}, keys: {current: 2, oldest: 3}}",
            "spec.keys.oldest: 3: no key counts that is later than 2, the current one; write 2, or a lower number\n",
        ),
        (
            "{application: {answer: {}}, keys: {current: 9}}",
            "spec.keys.current: 9: more than 8 keys would count at a time; raise spec.keys.oldest (now 1) first, once no call is left \
             that began with the oldest key\n",
        ),
        (
            "{}",
            "spec.application: it is missing; indent below it what it holds: answer, b2bua, custom\n",
        ),
        (
            "{application: {answer: {}, custom: {command: ./x}}}",
            "spec.application: answer and custom: they exclude one another; write one: `answer: {}`, or `b2bua` with its routes\n",
        ),
        (
            "{application: {custom: {}}}",
            "spec.application.custom.command: it is missing; write a text\n",
        ),
        (
            "{application: {custom: {command: ./x, options: [1]}}}",
            "spec.application.custom.options: [1]: a value of type object belongs here; write {}\n",
        ),
        (
            "{application: {}}",
            "spec.application: {}: no application is named; write one: `answer: {}`, or `b2bua` with its routes\n",
        ),
        (
            "{application: {answer: }}",
            "spec.application: {}: no application is named; write one: `answer: {}`, or `b2bua` with its routes\n",
        ),
        (
            "{application: {answer: {}, b2bua: {routes: [{target: sip:127.0.0.1}]}}}",
            "spec.application: answer and b2bua: they exclude one another; write one: `answer: {}`, or `b2bua` with its routes\n",
        ),
        (
            "{application: {b2bua: {}}}",
            "spec.application.b2bua.routes: it is missing; write a list\n",
        ),
        (
            "{application: {b2bua: {routes: []}}}",
            "spec.application.b2bua.routes: []: 0 entries are too few; write 1 to 256 of them\n",
        ),
        (
            "{application: {b2bua: {routes: [{target: sip:127.0.0.1, user: ''}]}}}",
            "spec.application.b2bua.routes[0].user: \"\": it does not read like one; write a text of 1 to 128 characters\n",
        ),
        (
            "{application: {b2bua: {routes: [{target: sip:127.0.0.1}, {target: sip:example.org}]}}}",
            "spec.application.b2bua.routes[1].target: \"sip:example.org\": it does not read like one; write a SIP URI with an IP address, \
             such as sip:10.0.0.7:5060;transport=tcp; names are not looked up yet\n",
        ),
        (
            "{application: {b2bua: {routes: [{target: sip:127.0.0.1, source: 10.0.0.0/33}]}}}",
            "spec.application.b2bua.routes[0].source: \"10.0.0.0/33\": it does not read like one; write an address such as 10.0.0.7, \
             or a network such as 10.0.0.0/8\n",
        ),
        (
            "{application: {b2bua: {routes: [{target: sip:127.0.0.1, method: BYE}]}}}",
            "spec.application.b2bua.routes[0].method: \"BYE\": this is not known; write INVITE\n",
        ),
        (
            "{application: {b2bua: {media: {}, routes: [{target: sip:127.0.0.1}]}}}",
            "spec.application.b2bua.media.rtpengine: it is missing; write a list\n",
        ),
        (
            "{application: {b2bua: {media: {rtpengine: ['10.0.0.5:2223', 'media:2223']}, routes: [{target: sip:127.0.0.1}]}}}",
            "spec.application.b2bua.media.rtpengine[1]: \"media:2223\": it does not read like one; write an IP address with the port \
             of listen-ng, such as 10.0.0.5:2223; names are not looked up yet\n",
        ),
        (
            "{application: {b2bua: {media: {rtpengine: ['[::1]:2223', '[::1]:2223']}, routes: [{target: sip:127.0.0.1}]}}}",
            "spec.application.b2bua.media.rtpengine[1]: \"[::1]:2223\": it stands there twice; write an IP address with the port \
             of listen-ng, such as 10.0.0.5:2223; names are not looked up yet\n",
        ),
        (
            "{application: {b2bua: {ring: 0s, routes: [{target: sip:127.0.0.1}]}}}",
            "spec.application.b2bua.ring: 0s: this is too short; write a period from 1s to 1h\n",
        ),
        (
            "",
            "spec: nothing stands here; indent below it what it holds: application, containers, dispatcher, keys, partitions, paused, proxies, \
          redis, replicas, replication\n",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(problems(&with_spec(spec)), expected, "{spec}");
    }
}

#[test]
fn redis_is_counted_with_its_replicas() {
    let of = |redis: &str| {
        let manifest = with_spec(&format!("{{application: {{answer: {{}}}}, redis: {redis}}}"));
        let spec = parse(&manifest)
            .unwrap_or_else(|problems| panic!("{redis}: {problems:?}"))
            .spec;
        (spec.external_redis_url().map(str::to_owned), spec.redis_instances())
    };
    assert_eq!(of("{managed: {}}"), (None, 1));
    assert_eq!(of("{managed: {instances: 3}}"), (None, 3));
    let sentinels = "redis-sentinel://:secret@10.0.0.7:26379,[::1]:26379/2#calls";
    assert_eq!(
        of(&format!("{{external: {{url: '{sentinels}'}}}}")),
        (Some(sentinels.into()), 1)
    );
    assert_eq!(
        of(&format!("{{external: {{url: '{sentinels}', instances: 9}}}}")),
        (Some(sentinels.into()), 9)
    );
    let nodes = "redis-cluster://:secret@10.0.0.7,[::1]:7000";
    assert_eq!(
        of(&format!("{{external: {{url: '{nodes}', instances: 2}}}}")),
        (Some(nodes.into()), 2)
    );
}

#[test]
fn an_application_of_ones_own_has_options_in_its_own_words() {
    let cluster = parse(&with_spec(
        "{application: {custom: {command: ../a/b, options: {seconds: 7, list: [{x: y}]}}}}",
    ))
    .expect("a manifest");
    let custom = cluster.spec.application.custom.expect("it is named");
    assert_eq!(custom.command.to_str(), Some("../a/b"));
    assert_eq!(
        serde_json::Value::Object(custom.options),
        serde_json::json!({"seconds": 7, "list": [{"x": "y"}]})
    );
}

#[test]
fn an_unknown_field_is_refused_with_the_nearest_known_one() {
    let typing_slip =
        "{application: {answer: {session_expires: 90s}}, replica: 3, dispatcher: {ports: 5060}, colour: red}";
    assert_eq!(
        problems(&with_spec(typing_slip)),
        "spec.application.answer.session_expires: this field is not known; did you mean sessionExpires?\n\
         spec.colour: this field is not known; leave it out; known here: application, containers, dispatcher, keys, partitions, paused, proxies, \
         redis, replicas, replication\n\
         spec.dispatcher.ports: this field is not known; did you mean port?\n\
         spec.replica: this field is not known; did you mean replicas?\n"
    );
    let top = SMALLEST.replace("spec:", "specs:");
    assert!(problems(&top).contains("specs: this field is not known; did you mean spec?"));
}

#[test]
fn what_is_no_sip_cluster_is_refused() {
    assert_eq!(
        problems("kind: Pod"),
        "kind: Pod: no SipCluster in this manifest; write kind: SipCluster\n"
    );
    assert!(problems("").contains("the manifest is empty"));
    assert!(problems("a: [").contains("this is no YAML"));
    assert!(problems("a: 1\na: 2").contains("duplicate entry"));
    assert!(problems(&format!("{SMALLEST}\n---\n{SMALLEST}")).contains("there are 2 SipClusters"));
    assert!(problems(&SMALLEST.replace("v1alpha1", "v1")).contains("apiVersion: sipcluster.dev/v1: "));
    for name in ["", "Demo", "-a", "a-", "1a", "a.b", &"a".repeat(41)] {
        let manifest = SMALLEST.replace("demo", &format!("\"{name}\""));
        assert!(problems(&manifest).starts_with("metadata.name: "), "{name}");
    }
}

#[test]
fn other_documents_in_the_file_are_passed_over() {
    let manifest = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n---\n{SMALLEST}");
    assert!(parse(&manifest).is_ok());
}

#[test]
fn targets_of_routes_are_addresses() {
    let target = |target: &str| {
        parse(&with_spec(&format!(
            "{{application: {{b2bua: {{routes: [{{target: '{target}'}}]}}}}}}"
        )))
    };
    for good in [
        "sip:10.0.0.7",
        "sip:10.0.0.7:5060",
        "sip:desk@10.0.0.7;transport=tcp",
        "sip:[::1]:5070",
        "sip:[2001:db8::1]",
    ] {
        assert!(target(good).is_ok(), "{good}");
    }
    for wrong in [
        "sips:10.0.0.7",
        "sip:10.0.0.7:0",
        "sip:@10.0.0.7",
        "sip:10.0.0.7?x=y",
        "sip:a b@10.0.0.7",
        "sip:::1",
        "10.0.0.7:5060",
    ] {
        assert!(target(wrong).is_err(), "{wrong}");
    }
}
