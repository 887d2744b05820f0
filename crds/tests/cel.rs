//! The CEL rules of the CustomResourceDefinition, each with specs that it lets pass and specs that it refuses, evaluated as the API server does: where
//! they stand, after the schema's defaults are filled in, and those that speak of `oldSelf` for changes alone.
//!
//! The functions of CEL itself are there, and of Kubernetes' own `isIP`; a rule that calls another one (`quantity`, `isURL` and the like) fails here as one
//! that does not evaluate.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use cel::{Context, Program, Value as Cel};
use serde_json::Value;

/// A rule by where it stands and how its message begins, and for which specs it holds and for which it does not. A spec without an application gets one.
struct Case {
    rule: &'static str,
    passes: &'static [&'static str],
    refuses: &'static [&'static str],
}

const RULES: &[Case] = &[
    Case {
        rule: "spec.application: name one application",
        passes: &[
            "{application: {answer: {}}}",
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}]}}}",
            "{application: {custom: {command: prepaid}}, containers: {image: 'prepaid:1'}}",
        ],
        refuses: &[
            "{application: {}}",
            "{application: {answer: {}, b2bua: {routes: [{target: 'sip:10.0.0.1'}]}}}",
        ],
    },
    Case {
        rule: "spec.application.answer: sessionExpires: write a period from 90s to 24h",
        passes: &[
            "{application: {answer: {sessionExpires: 90s}}}",
            "{application: {answer: {sessionExpires: 1440m}}}",
        ],
        refuses: &[
            "{application: {answer: {sessionExpires: 89999ms}}}",
            "{application: {answer: {sessionExpires: 86401s}}}",
        ],
    },
    Case {
        rule: "spec.application.b2bua: ring: write a period from 1s to 1h",
        passes: &[
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], ring: 1000ms}}}",
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], ring: 1h}}}",
        ],
        refuses: &[
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], ring: 999ms}}}",
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], ring: 61m}}}",
        ],
    },
    Case {
        rule: "spec.application.b2bua: sessionExpires: write a period from 90s to 24h",
        passes: &[
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], sessionExpires: 90s}}}",
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], sessionExpires: 24h}}}",
        ],
        refuses: &[
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], sessionExpires: 1m}}}",
            "{application: {b2bua: {routes: [{target: 'sip:10.0.0.1'}], sessionExpires: 25h}}}",
        ],
    },
    Case {
        rule: "spec.containers: quiesce: write a period from 0s to 24h",
        passes: &["{containers: {quiesce: 0ms}}", "{containers: {quiesce: 24h}}"],
        refuses: &["{containers: {quiesce: 1441m}}"],
    },
    Case {
        rule: "spec.proxies: drain: write a period from 0s to 10m",
        passes: &["{proxies: {drain: 0s}}", "{proxies: {drain: 600000ms}}"],
        refuses: &["{proxies: {drain: 600001ms}}"],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.advertised: with hostNetwork",
        passes: &[
            "{dispatcher: {hostNetwork: {}}}",
            "{dispatcher: {hostNetwork: {host: sip.example.com}}}",
            "{dispatcher: {advertised: 192.0.2.1}}",
        ],
        refuses: &["{dispatcher: {hostNetwork: {}, advertised: 192.0.2.1}}"],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.service: with hostNetwork",
        passes: &[
            "{dispatcher: {hostNetwork: {}, service: {type: LoadBalancer}}}",
            "{dispatcher: {service: {type: ClusterIP, class: c, annotations: {a: b}, externalTrafficPolicy: Cluster, nodePort: 30000}}}",
        ],
        refuses: &[
            "{dispatcher: {hostNetwork: {}, service: {type: NodePort}}}",
            "{dispatcher: {hostNetwork: {}, service: {type: ClusterIP}}}",
            "{dispatcher: {hostNetwork: {}, service: {class: example.com/balancer}}}",
            "{dispatcher: {hostNetwork: {}, service: {annotations: {a: b}}}}",
            "{dispatcher: {hostNetwork: {}, service: {externalTrafficPolicy: Cluster}}}",
            "{dispatcher: {hostNetwork: {}, service: {nodePort: 30000}}}",
        ],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.port: proxies have no privileges",
        passes: &[
            "{dispatcher: {hostNetwork: {}, port: 1024}}",
            "{dispatcher: {port: 1023}}",
        ],
        refuses: &["{dispatcher: {hostNetwork: {}, port: 1023}}"],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.hostNetwork: a proxy cannot listen twice",
        passes: &[
            "{dispatcher: {hostNetwork: {ucfPort: 5081, adminPort: 9091}}}",
            "{dispatcher: {port: 5071}}",
        ],
        refuses: &[
            "{dispatcher: {hostNetwork: {}, port: 5071}}",
            "{dispatcher: {hostNetwork: {}, port: 9090}}",
            "{dispatcher: {hostNetwork: {ucfPort: 9090}}}",
        ],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.address: write an IP address",
        passes: &["{dispatcher: {address: 127.0.0.5}}", "{dispatcher: {address: '::1'}}"],
        refuses: &["{dispatcher: {address: localhost}}", "{dispatcher: {address: ''}}"],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.advertised: write an IP address",
        passes: &[
            "{dispatcher: {advertised: 203.0.113.7}}",
            "{dispatcher: {advertised: '2001:db8::1'}}",
        ],
        refuses: &[
            "{dispatcher: {advertised: sip.example.com}}",
            "{dispatcher: {advertised: '203.0.113.7:5060'}}",
        ],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.advertised: peers cannot send calls",
        passes: &[
            "{dispatcher: {advertised: 192.0.2.1}}",
            "{dispatcher: {advertised: 223.255.255.255}}",
            "{dispatcher: {advertised: 240.0.0.1}}",
            "{dispatcher: {advertised: 22.4.0.1}}",
            "{dispatcher: {advertised: 10.0.0.0}}",
            "{dispatcher: {advertised: '::1'}}",
            "{dispatcher: {advertised: '2001:db8::ff02'}}",
        ],
        refuses: &[
            "{dispatcher: {advertised: 0.0.0.0}}",
            "{dispatcher: {advertised: '::'}}",
            "{dispatcher: {advertised: 224.0.0.1}}",
            "{dispatcher: {advertised: 239.255.255.255}}",
            "{dispatcher: {advertised: 'ff02::1'}}",
            "{dispatcher: {advertised: 'FF0E::1'}}",
        ],
    },
    Case {
        rule: "spec.dispatcher: dispatcher.service: a NodePort Service has no address",
        passes: &[
            "{dispatcher: {advertised: 192.0.2.1, service: {type: NodePort, nodePort: 30060}}}",
            "{dispatcher: {service: {nodePort: 30060}}}",
            "{dispatcher: {service: {type: ClusterIP}}}",
        ],
        refuses: &[
            "{dispatcher: {service: {type: NodePort}}}",
            "{dispatcher: {advertised: 192.0.2.1, service: {type: NodePort}}}",
            "{dispatcher: {service: {type: NodePort, nodePort: 30060}}}",
        ],
    },
    Case {
        rule: "spec.redis: managed and external exclude one another",
        passes: &[
            "{redis: {}}",
            "{redis: {managed: {}}}",
            "{redis: {external: {url: 'redis://10.0.0.7'}}}",
        ],
        refuses: &["{redis: {managed: {}, external: {url: 'redis://10.0.0.7'}}}"],
    },
    Case {
        rule: "spec.redis.external: redis.external: write its url, or the secret",
        passes: &[
            "{redis: {external: {url: 'redis://10.0.0.7'}}}",
            "{redis: {external: {secret: {name: calls}}}}",
        ],
        refuses: &[
            "{redis: {external: {}}}",
            "{redis: {external: {url: 'redis://10.0.0.7', secret: {name: calls}}}}",
        ],
    },
    Case {
        rule: "spec.redis.external: redis.external: TLS takes both",
        passes: &[
            "{redis: {external: {url: 'redis://10.0.0.7'}}}",
            "{redis: {external: {url: 'rediss://10.0.0.7', caSecret: {name: ca}}}}",
            "{redis: {external: {url: 'rediss-sentinel://10.0.0.7#calls', caSecret: {name: ca}}}}",
            "{redis: {external: {url: 'rediss-cluster://10.0.0.7', caSecret: {name: ca}}}}",
            "{redis: {external: {url: 'redis-cluster://10.0.0.7'}}}",
            "{redis: {external: {secret: {name: calls}}}}",
            "{redis: {external: {secret: {name: calls}, caSecret: {name: ca}}}}",
        ],
        refuses: &[
            "{redis: {external: {url: 'rediss://10.0.0.7'}}}",
            "{redis: {external: {url: 'redis://10.0.0.7', caSecret: {name: ca}}}}",
            "{redis: {external: {url: 'redis-sentinel://10.0.0.7#calls', caSecret: {name: ca}}}}",
        ],
    },
    Case {
        rule: "spec.redis.external: redis.external.caFile: pods have none of your files",
        passes: &["{redis: {external: {url: 'rediss://10.0.0.7', caSecret: {name: ca}}}}"],
        refuses: &[
            "{redis: {external: {url: 'rediss://10.0.0.7', caFile: ca.crt}}}",
            "{redis: {external: {secret: {name: calls}, caFile: ca.crt}}}",
        ],
    },
    Case {
        rule: "spec.redis.managed: instances: write 1, 3 or 5",
        passes: &[
            "{redis: {managed: {instances: 1}}}",
            "{redis: {managed: {instances: 3}}}",
            "{redis: {managed: {instances: 5}}}",
        ],
        refuses: &[
            "{redis: {managed: {instances: 2}}}",
            "{redis: {managed: {instances: 4}}}",
        ],
    },
    Case {
        rule: "spec.replication: lease: write a period from 100ms to 10m",
        passes: &["{replication: {lease: 100ms}}", "{replication: {lease: 10m}}"],
        refuses: &["{replication: {lease: 99ms}}", "{replication: {lease: 601s}}"],
    },
    Case {
        rule: "spec.keys: keys.oldest: no key counts",
        passes: &[
            "{keys: {current: 2, oldest: 2}}",
            "{keys: {current: 3, oldest: 2}}",
            "{}",
        ],
        refuses: &["{keys: {current: 2, oldest: 3}}", "{keys: {oldest: 2}}"],
    },
    Case {
        rule: "spec.keys: keys: more than eight",
        passes: &["{keys: {current: 8}}", "{keys: {current: 9, oldest: 2}}"],
        refuses: &["{keys: {current: 9}}", "{keys: {current: 19, oldest: 11}}"],
    },
    Case {
        rule: "spec: partitions: fewer than the containers",
        passes: &["{replicas: 8, partitions: 8}", "{}"],
        refuses: &["{replicas: 8, partitions: 7}", "{partitions: 2}"],
    },
    Case {
        rule: "spec: containers.image: the application is your own",
        passes: &["{application: {custom: {command: prepaid}}, containers: {image: 'prepaid:1'}}"],
        refuses: &["{application: {custom: {command: prepaid}}}"],
    },
];

/// A rule about changes, the spec before, and what it may and may not become.
struct Change {
    rule: &'static str,
    from: &'static str,
    passes: &'static [&'static str],
    refuses: &'static [&'static str],
}

const CHANGES: &[Change] = &[
    Change {
        rule: "spec.partitions: partitions cannot be changed",
        from: "{}",
        passes: &["{partitions: 1024, replicas: 5}"],
        refuses: &["{partitions: 1025}"],
    },
    Change {
        rule: "spec: dispatcher.port cannot be changed",
        from: "{}",
        passes: &["{dispatcher: {port: 5060, transports: [tcp]}}"],
        refuses: &["{dispatcher: {port: 5061}}"],
    },
    Change {
        rule: "spec: dispatcher.advertised cannot be changed",
        from: "{dispatcher: {advertised: 192.0.2.1}}",
        passes: &["{dispatcher: {advertised: 192.0.2.1, service: {type: NodePort, nodePort: 30060}}}"],
        refuses: &["{dispatcher: {advertised: 192.0.2.2}}", "{dispatcher: {}}"],
    },
    Change {
        rule: "spec: dispatcher.advertised cannot be changed",
        from: "{}",
        passes: &["{proxies: {replicas: 3}}"],
        refuses: &["{dispatcher: {advertised: 192.0.2.1}}"],
    },
    Change {
        rule: "spec: dispatcher.hostNetwork cannot be changed",
        from: "{}",
        passes: &["{dispatcher: {transports: [udp]}}"],
        refuses: &["{dispatcher: {hostNetwork: {}}}"],
    },
    Change {
        rule: "spec: dispatcher.hostNetwork cannot be changed",
        from: "{dispatcher: {hostNetwork: {host: sip.example.com}}}",
        passes: &[
            "{dispatcher: {hostNetwork: {host: sip.example.com, ucfPort: 5071}}, proxies: {nodeSelector: {edge: 'yes'}}}",
        ],
        refuses: &[
            "{}",
            "{dispatcher: {hostNetwork: {}}}",
            "{dispatcher: {hostNetwork: {host: sip.example.org}}}",
            "{dispatcher: {hostNetwork: {host: sip.example.com, ucfPort: 5072}}}",
        ],
    },
    Change {
        rule: "spec.dispatcher: dispatcher.service.class of a LoadBalancer cannot be changed",
        from: "{dispatcher: {service: {class: example.com/one}}}",
        passes: &[
            "{dispatcher: {service: {class: example.com/one, externalTrafficPolicy: Cluster}}}",
            "{dispatcher: {service: {type: ClusterIP}}}",
            "{dispatcher: {service: {type: ClusterIP, class: example.com/two}}}",
        ],
        refuses: &["{dispatcher: {service: {class: example.com/two}}}", "{}"],
    },
    Change {
        rule: "spec.dispatcher: dispatcher.service.class of a LoadBalancer cannot be changed",
        from: "{}",
        passes: &["{dispatcher: {service: {annotations: {a: b}}}}"],
        refuses: &["{dispatcher: {service: {class: example.com/one}}}"],
    },
    Change {
        rule: "spec: replication.lease cannot be changed",
        from: "{}",
        passes: &["{replication: {lease: 2s}}"],
        refuses: &["{replication: {lease: 3s}}"],
    },
    Change {
        rule: "spec: redis cannot be changed",
        from: "{redis: {external: {url: 'redis://10.0.0.7', instances: 3}}}",
        passes: &["{redis: {external: {url: 'redis://10.0.0.7', instances: 3}}, replicas: 4}"],
        refuses: &[
            "{redis: {external: {url: 'redis://10.0.0.8', instances: 3}}}",
            "{redis: {external: {url: 'redis://10.0.0.7', instances: 5}}}",
            "{redis: {external: {secret: {name: calls}, instances: 3}}}",
            "{redis: {}}",
        ],
    },
    Change {
        rule: "spec: redis cannot be changed",
        from: "{redis: {external: {secret: {name: calls}}}}",
        passes: &[
            "{redis: {external: {secret: {name: calls, key: url}}}, paused: true}",
            "{redis: {external: {secret: {name: calls}, caSecret: {name: ca}}}}",
        ],
        refuses: &[
            "{redis: {external: {secret: {name: calls, key: other}}}}",
            "{redis: {external: {secret: {name: other}}}}",
            "{redis: {external: {url: 'redis://10.0.0.7'}}}",
        ],
    },
    Change {
        rule: "spec: redis cannot be changed",
        from: "{}",
        passes: &["{redis: {}}", "{redis: {managed: {}}}"],
        refuses: &["{redis: {external: {url: 'redis://10.0.0.7'}}}"],
    },
    Change {
        rule: "spec: redis.managed.instances cannot be changed",
        from: "{}",
        passes: &["{redis: {managed: {instances: 1, image: 'redis:8'}}}"],
        refuses: &["{redis: {managed: {instances: 3}}}"],
    },
    Change {
        rule: "spec: redis.managed.password: it stays, or grows by one",
        from: "{}",
        passes: &["{redis: {managed: {password: 1}}}", "{redis: {managed: {password: 2}}}"],
        refuses: &["{redis: {managed: {password: 3}}}"],
    },
    Change {
        rule: "spec: redis.managed.password: it stays, or grows by one",
        from: "{redis: {managed: {password: 3}}}",
        passes: &[
            "{redis: {managed: {password: 3, image: 'redis:8'}}}",
            "{redis: {managed: {password: 4}}}",
        ],
        refuses: &[
            "{redis: {managed: {password: 5}}}",
            "{redis: {managed: {password: 2}}}",
            "{redis: {}}",
        ],
    },
    Change {
        rule: "spec.keys: keys.current: it stays, or grows by one",
        from: "{keys: {current: 2}}",
        passes: &["{keys: {current: 2}, replicas: 4}", "{keys: {current: 3}}"],
        refuses: &["{keys: {current: 4}}", "{keys: {current: 1}}", "{}"],
    },
    Change {
        rule: "spec.keys: keys.oldest cannot be lowered",
        from: "{keys: {current: 3, oldest: 2}}",
        passes: &["{keys: {current: 3, oldest: 2}}", "{keys: {current: 3, oldest: 3}}"],
        refuses: &["{keys: {current: 3, oldest: 1}}", "{keys: {current: 4}}"],
    },
];

/// The schema of `spec`, out of the file that is installed.
fn schema() -> Value {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/sipcluster.dev_sipclusters.yaml");
    let text = std::fs::read_to_string(file).expect("it is there");
    let crd: Value = serde_yaml_ng::from_str(&text).expect("a CRD");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// The spec as rules see it.
fn filled(text: &str) -> Value {
    let mut spec: Value = serde_yaml_ng::from_str(text).expect("a spec");
    if spec["application"].is_null() {
        spec["application"] = serde_json::json!({ "answer": {} });
    }
    fill(&schema(), &mut spec);
    spec
}

/// Fills in what is left out, from the top: a default's own fields have defaults, too.
fn fill(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in properties(schema) {
                if let (None, Some(default)) = (fields.get(name), schema.get("default")) {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(field) = fields.get_mut(name) {
                    fill(schema, field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| fill(&schema["items"], item)),
        _ => {}
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// The rules of one place: expression and message.
fn rules(schema: &Value) -> impl Iterator<Item = (&str, &str)> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules.map(|rule| {
        let fields = rule.as_object().expect("a rule has fields");
        let unknown: Vec<_> = fields
            .keys()
            .filter(|key| !["rule", "message"].contains(&key.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{rule}: {unknown:?} is not evaluated here");
        let text = |key: &str| fields[key].as_str().expect("a text");
        (text("rule"), text("message"))
    })
}

/// The rules that a spec breaks, as a new one or in place of `old`: where each stands, and its message.
fn broken(spec: &str, old: Option<&str>) -> Vec<String> {
    let (new, old) = (filled(spec), old.map(filled));
    let mut found = Vec::new();
    walk("spec", &schema(), &new, old.as_ref(), &mut found);
    found
}

fn walk(path: &str, schema: &Value, new: &Value, old: Option<&Value>, found: &mut Vec<String>) {
    for (rule, message) in rules(schema) {
        if (old.is_some() || !rule.contains("oldSelf")) && !holds(rule, new, old) {
            found.push(format!("{path}: {message}"));
        }
    }
    for (name, schema) in properties(schema) {
        if let Some(new) = new.get(name) {
            let old = old.and_then(|old| old.get(name));
            walk(&format!("{path}.{name}"), schema, new, old, found);
        }
    }
    // Which item of a list was which before, nobody knows.
    for item in new.as_array().into_iter().flatten() {
        walk(&format!("{path}[]"), &schema["items"], item, None, found);
    }
}

fn holds(rule: &str, new: &Value, old: Option<&Value>) -> bool {
    let program = Program::compile(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
    let mut context = Context::default();
    context.add_variable_from_value("self", value(new));
    let added = context.add_function("isIP", |text: Arc<String>| text.parse::<IpAddr>().is_ok());
    added.expect("the name is free");
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", value(old));
    }
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => holds,
        other => panic!("{rule} of {new}: {other:?}"),
    }
}

/// A value as the schema's types have it: a number of JSON is an `integer`.
fn value(json: &Value) -> Cel {
    match json {
        Value::Null => Cel::Null,
        Value::Bool(bool) => Cel::Bool(*bool),
        Value::Number(number) => Cel::Int(number.as_i64().expect("no field is a fraction")),
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, field)| (name.as_str(), value(field)));
            fields.collect::<HashMap<_, _>>().into()
        }
    }
}

/// That this rule holds for the first ones, along with all others, and is the only one that does not for the second.
fn check(rule: &str, from: Option<&str>, passes: &[&str], refuses: &[&str]) {
    assert!(
        !passes.is_empty() && !refuses.is_empty(),
        "{rule}: one to pass and one to refuse"
    );
    for spec in passes {
        assert_eq!(broken(spec, from), [""; 0], "{rule}: {spec} from {from:?}");
    }
    for spec in refuses {
        let broken = broken(spec, from);
        let is_this = matches!(&broken[..], [one] if one.starts_with(rule));
        assert!(is_this, "{rule}: {spec} from {from:?} breaks {broken:?}");
    }
}

#[test]
fn each_rule_lets_the_good_pass_and_refuses_the_bad() {
    for case in RULES {
        check(case.rule, None, case.passes, case.refuses);
    }
}

#[test]
fn each_rule_about_changes_lets_the_good_pass_and_refuses_the_bad() {
    for change in CHANGES {
        check(change.rule, Some(change.from), change.passes, change.refuses);
        for spec in change.refuses {
            assert_eq!(broken(spec, None), [""; 0], "{}: {spec} as a new one", change.rule);
        }
    }
}

/// Kubernetes keeps the class from then on.
#[test]
fn what_becomes_a_load_balancer_may_be_given_a_class() {
    for from in [
        "{dispatcher: {service: {type: ClusterIP}}}",
        "{dispatcher: {service: {type: ClusterIP, class: a/b}}}",
    ] {
        let spec = "{dispatcher: {service: {class: example.com/one}}}";
        assert_eq!(broken(spec, Some(from)), [""; 0], "from {from}");
    }
}

#[test]
fn each_rule_is_tried_and_each_case_is_of_a_rule() {
    let mut present = BTreeSet::new();
    all("spec", &schema(), &mut present);
    let tried = || (RULES.iter().map(|case| case.rule)).chain(CHANGES.iter().map(|change| change.rule));
    let left_out: Vec<_> = present
        .iter()
        .filter(|rule| !tried().any(|tried| rule.starts_with(tried)))
        .collect();
    assert!(left_out.is_empty(), "no case is about {left_out:#?}");
    for rule in tried() {
        let of = present.iter().filter(|present| present.starts_with(rule)).count();
        assert_eq!(of, 1, "rules that are called {rule}");
    }
}

/// Every rule of a schema, wherever it stands: where, and its message.
fn all(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    for (rule, message) in rules(schema) {
        assert!(
            found.insert(format!("{path}: {message}")),
            "{path}: {message}: stands there twice ({rule})"
        );
    }
    for (keyword, below) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), below) {
            ("properties", Value::Object(fields)) => {
                for (name, schema) in fields {
                    all(&format!("{path}.{name}"), schema, found);
                }
            }
            ("items", schema) => all(&format!("{path}[]"), schema, found),
            // Wherever else a rule may stand, it would not be evaluated here.
            (keyword, below) => {
                let is_evaluated = keyword == "x-kubernetes-validations"
                    || !below.to_string().contains("\"x-kubernetes-validations\"");
                assert!(is_evaluated, "{path}.{keyword} has rules that are not evaluated here");
            }
        }
    }
}
