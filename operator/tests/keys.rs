//! A rotation of keys, whatever happens to pods and to the operator meanwhile: nobody issues with a key before everybody verifies it, nobody ceases
//! to verify one while anybody issues with it, and all get to what the manifest says.

mod support;

use std::collections::BTreeSet;

use operator::sip_cluster::build::{build, key};
use operator::sip_cluster::keys::{Keys, Seen, id, keys};
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::{dereference::Found, status};
use serde_json::{Value, json};
use support::{Model, Random, Stand, valid};

/// Pods of each kind.
const WANTED: usize = 3;

/// A kind of part: whoever makes its pods may make them by an older template until all are of the present one.
#[derive(Clone, Debug)]
struct Kind {
    /// Nothing while somebody has deleted the workload, and left what makes its pods.
    template: Option<Keys>,
    older: Vec<Keys>,
    pods: Vec<Keys>,
    leaving: Vec<Keys>,
}

impl Kind {
    fn new() -> Self {
        Self {
            template: Some(Keys::default()),
            older: Vec::new(),
            pods: vec![Keys::default(); WANTED],
            leaving: Vec::new(),
        }
    }

    fn is_settled(&self) -> bool {
        let is_new = |keys: &Keys| Some(keys) == self.template.as_ref();
        self.pods.len() == WANTED && self.pods.iter().all(is_new)
    }

    fn apply(&mut self, keys: &Keys) {
        if let Some(old) = self.template.replace(keys.clone()).filter(|old| old != keys) {
            self.older.push(old);
        }
    }

    /// A pod more, if one is missing.
    fn fill(&mut self, random: &mut Random) {
        // Its place among as many newer ones at least, so that a new one comes in the end.
        let older = self.older.get(random.below(8 + 2 * self.older.len() as u64) as usize);
        let Some(template) = older.or(self.template.as_ref()) else {
            return;
        };
        if self.pods.len() < WANTED {
            self.pods.push(template.clone());
        }
    }

    fn leave(&mut self, which: u64) {
        if !self.pods.is_empty() {
            let pod = self.pods.remove(which as usize % self.pods.len());
            self.leaving.push(pod);
        }
    }
}

/// Both kinds, and what the manifest says.
#[derive(Clone, Debug)]
struct World {
    manifest: crds::Keys,
    kinds: [Kind; 2],
}

impl World {
    fn seen(&self) -> Seen {
        let pods = self.kinds.iter().flat_map(|kind| kind.pods.iter().chain(&kind.leaving));
        Seen {
            templates: self.kinds.iter().filter_map(|kind| kind.template.clone()).collect(),
            pods: pods.map(|keys| ("demo".into(), keys.clone())).collect(),
            is_settled: self.kinds.iter().all(Kind::is_settled),
        }
    }

    /// The operator looks, and may end before it has applied both.
    fn look(&mut self, applies: usize) {
        let keys = keys(self.manifest, &self.seen());
        let ids: BTreeSet<_> = keys.verifies.iter().map(|number| id(*number)).collect();
        assert_eq!(ids.len(), keys.verifies.len(), "two keys have one id: {keys}");
        self.kinds.iter_mut().take(applies).for_each(|kind| kind.apply(&keys));
    }

    /// What makes pods by older templates has ended where all are of the present one.
    fn end_older(&mut self) {
        let settled = self.kinds.iter_mut().filter(|kind| kind.is_settled());
        settled.for_each(|kind| kind.older.clear());
    }

    fn event(&mut self, random: &mut Random) {
        self.end_older();
        let kind = &mut self.kinds[random.below(2) as usize];
        match random.below(64) {
            0 if self.manifest.current - self.manifest.oldest < 7 => self.manifest.current += 1,
            1 if self.manifest.oldest < self.manifest.current => self.manifest.oldest += 1,
            2 => kind.older.extend(kind.template.take()),
            3..=20 => self.look(random.below(3) as usize),
            21..=30 => kind.leave(random.below(8)),
            31..=42 if !kind.leaving.is_empty() => {
                kind.leaving.swap_remove(random.below(64) as usize % kind.leaving.len());
            }
            _ => kind.fill(random),
        }
    }

    fn check(&self, what: &str) {
        let pods = self.seen().pods;
        let issued: BTreeSet<u32> = pods.iter().map(|(_, keys)| keys.issues).collect();
        for (_, keys) in &pods {
            assert!(
                issued.is_subset(&keys.verifies),
                "{what}: one is {keys}, and {issued:?} are issued with: {self:?}"
            );
        }
    }

    /// Nothing goes wrong any more.
    fn settle(&mut self, random: &mut Random, what: &str) {
        for _ in 0..40 {
            self.end_older();
            self.look(2);
            for kind in &mut self.kinds {
                while let Some(old) = kind.pods.iter().position(|keys| Some(keys) != kind.template.as_ref()) {
                    kind.leave(old as u64);
                }
            }
            while !self.kinds.iter().all(Kind::is_settled) {
                self.kinds.iter_mut().for_each(|kind| kind.fill(random));
                self.check(what);
                for kind in &mut self.kinds {
                    // By an older template: it goes again.
                    kind.pods.retain(|keys| Some(keys) == kind.template.as_ref());
                }
            }
            self.kinds.iter_mut().for_each(|kind| kind.leaving.clear());
        }
    }
}

/// What all get to.
fn wanted(crds::Keys { current, oldest }: crds::Keys) -> Keys {
    Keys {
        issues: current,
        verifies: (oldest..=current).collect(),
    }
}

#[test]
fn whatever_happens_everybody_verifies_what_anybody_issues_with_and_all_get_there() {
    for seed in 1..=1000 {
        let mut random = Random::new(seed);
        let mut world = World {
            manifest: crds::Keys::default(),
            kinds: [Kind::new(), Kind::new()],
        };
        let what = format!("seed {seed}");
        for _ in 0..300 {
            world.event(&mut random);
            world.check(&what);
        }
        world.settle(&mut random, &what);
        let wanted = wanted(world.manifest);
        for kind in &world.kinds {
            let all = kind.template.iter().chain(&kind.pods);
            assert!(all.clone().all(|keys| *keys == wanted), "{what}: {wanted}: {kind:?}");
        }
    }
}

#[test]
fn what_an_annotation_says_is_read_again() {
    let keys = Keys {
        issues: 3,
        verifies: [2, 3, 4].into(),
    };
    assert_eq!(
        (keys.to_string().as_str(), keys.to_string().parse()),
        ("3 of 2,3,4", Ok(keys))
    );
    for wrong in ["", "1", "1 of", "1 of x", "0 of 0", "1 of 1,", "-1 of 1"] {
        assert_eq!(wrong.parse::<Keys>(), Err(()), "{wrong}");
    }
    assert_eq!(
        Keys::default().annotations(),
        None,
        "a cluster that never changed its key is not rolled"
    );
}

fn pods(said: &[&str]) -> Seen {
    let all = said.iter().map(|text| text.parse::<Keys>().expect("keys"));
    Seen {
        templates: all.clone().take(1).collect(),
        pods: all.map(|keys| ("demo".into(), keys)).collect(),
        is_settled: true,
    }
}

#[test]
fn the_steps_of_a_rotation_are_these() {
    let manifest = |current, oldest| crds::Keys { current, oldest };
    let cases = [
        (manifest(1, 1), &["1 of 1"][..], "1 of 1", None),
        (manifest(2, 1), &["1 of 1"], "1 of 1,2", Some("all parts learn key 2")),
        (
            manifest(2, 1),
            &["1 of 1,2", "1 of 1"],
            "1 of 1,2",
            Some("all parts learn key 2"),
        ),
        (manifest(2, 1), &["1 of 1,2"], "2 of 1,2", Some("key 2 is taken")),
        (
            manifest(2, 1),
            &["2 of 1,2", "1 of 1,2"],
            "2 of 1,2",
            Some("key 2 is taken"),
        ),
        (manifest(2, 1), &["2 of 1,2"], "2 of 1,2", None),
        (
            manifest(2, 2),
            &["2 of 1,2", "1 of 1,2"],
            "2 of 1,2",
            Some("key 2 is taken"),
        ),
        (manifest(2, 2), &["2 of 1,2"], "2 of 2", Some("key 1 is forgotten")),
        (
            manifest(2, 2),
            &["2 of 2", "2 of 1,2"],
            "2 of 2",
            Some("key 1 is forgotten"),
        ),
        // Another one is asked for in the middle.
        (
            manifest(3, 1),
            &["1 of 1,2"],
            "1 of 1,2,3",
            Some("all parts learn key 3"),
        ),
        (manifest(3, 3), &["2 of 2"], "2 of 2,3", Some("all parts learn key 3")),
        // So many at once that two would have one id.
        (
            manifest(40, 33),
            &["1 of 1"],
            "1 of 1,32",
            Some("all parts learn key 32"),
        ),
    ];
    for (manifest, said, wanted, step) in cases {
        let seen = pods(said);
        let keys = keys(manifest, &seen);
        assert_eq!(keys.to_string(), wanted, "{said:?} for {manifest:?}");
        assert_eq!(keys.step(&seen).as_deref(), step, "{said:?} for {manifest:?}");
    }
    // An operator ended between the two templates: the next one goes on where it was.
    for (templates, wanted) in [
        (["2 of 1,2", "1 of 1,2"], "2 of 1,2"),
        (["2 of 2", "2 of 1,2"], "2 of 2"),
    ] {
        let seen = Seen {
            templates: templates.map(|text| text.parse().expect("keys")).into(),
            is_settled: false,
            ..pods(&templates[1..])
        };
        assert_eq!(keys(manifest(2, 2), &seen).to_string(), wanted, "{templates:?}");
    }
    assert_eq!(
        keys(manifest(5, 4), &Seen::default()).to_string(),
        "5 of 4,5",
        "a new cluster"
    );
}

#[test]
fn pods_that_have_ended_count_for_nothing() {
    let pod = |name: &str, phase: &str| {
        let pod = json!({ "metadata": { "name": name }, "status": { "phase": phase } });
        std::sync::Arc::new(serde_json::from_value(pod).expect("a Pod"))
    };
    let found = Found {
        container_pods: vec![pod("demo-0", "Running")],
        proxy_pods: vec![pod("demo-proxy-a", "Failed"), pod("demo-proxy-b", "Unknown")],
        ..Found::default()
    };
    let named: Vec<_> = Seen::of(&found, true).pods.into_iter().map(|(name, _)| name).collect();
    assert_eq!(named, ["demo-0", "demo-proxy-b"]);
}

/// The variables of a process that has to do with keys, with the Secret that a value comes from.
fn variables(workload: &Value) -> Vec<(String, String)> {
    let all = workload.pointer("/spec/template/spec/containers/0/env");
    let all = all.and_then(Value::as_array).expect("variables").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|one| {
        (
            text(&one["name"]),
            text(&one["value"]) + &text(&one["valueFrom"]["secretKeyRef"]["name"]),
        )
    })
    .filter(|(name, _)| name.contains("KEY"))
    .collect()
}

#[test]
fn each_process_is_told_its_keys_and_proxies_the_first_for_ever() {
    let told = |keys: &str| {
        let decision = Decision {
            replicas: Some(2),
            keys: keys.parse().expect("keys"),
            ..Decision::default()
        };
        let children = build(&valid(&json!({})), &decision);
        let workload = children.workload.expect("its addresses are known");
        let of = |workload: Value| {
            let said = workload.pointer("/spec/template/metadata/annotations").cloned();
            let said = said.map(|said| said["sipcluster.dev/keys"].as_str().map(str::to_owned));
            (variables(&workload), said.flatten())
        };
        let (containers, said) = of(serde_json::to_value(workload.containers).expect("JSON"));
        let (proxies, same) = of(serde_json::to_value(workload.proxies).expect("JSON"));
        assert_eq!(said, same);
        (containers, proxies, said, children.keys)
    };
    let pairs = |all: &[(&str, &str)]| -> Vec<_> {
        let all = all.iter().map(|(name, from)| ((*name).to_owned(), (*from).to_owned()));
        all.collect()
    };
    let first = pairs(&[("SIPCLUSTER_KEY", "demo-keys")]);
    assert_eq!(told("1 of 1"), (first.clone(), first, None, [1].into()));
    let (containers, proxies, said, secrets) = told("3 of 2,3,4");
    let mut expected = pairs(&[
        ("SIPCLUSTER_KEY", "demo-keys-3"),
        ("KEY_2", "demo-keys-2"),
        ("KEY_4", "demo-keys-4"),
        ("SIPCLUSTER_OTHER_KEYS", "$(KEY_2),$(KEY_4)"),
    ]);
    assert_eq!(containers, expected);
    expected.extend(pairs(&[("SIPCLUSTER_TRANSACTION_KEY", "demo-keys")]));
    assert_eq!(proxies, expected);
    assert_eq!((said.as_deref(), secrets), (Some("3 of 2,3,4"), [1, 2, 3, 4].into()));
}

#[test]
fn a_secret_is_immutable_and_holds_what_a_process_reads() {
    let valid = valid(&json!({}));
    let read = |number| {
        let secret = key(&valid, number, [0xab; 16], [0xcd; 16]);
        assert_eq!(secret.immutable, Some(true));
        let data = secret.data.expect("it holds something").into_iter();
        let data = data.map(|(name, value)| (name, String::from_utf8(value.0).expect("ASCII")));
        (secret.metadata.name.expect("a name"), data.collect::<Vec<_>>())
    };
    let named = |name: &str, text: String| (name.to_owned(), text);
    let (name, first) = read(1);
    let password = named("redis-password", "cd".repeat(16));
    assert_eq!(
        (name.as_str(), first),
        ("demo-keys", vec![named("affinity-key", "ab".repeat(16)), password])
    );
    let (name, second) = read(2);
    assert_eq!(
        (name.as_str(), &second),
        (
            "demo-keys-2",
            &vec![named("affinity-key", format!("1:{}", "ab".repeat(16)))]
        )
    );
    assert!(second[0].1.parse::<ucf::token::Key>().is_ok_and(|key| key.id == 1));
    let (_, later) = read(33);
    assert!(later[0].1.starts_with("0:"), "an id is used again after 32: {later:?}");
}

/// Lets the model go on until the manifest's keys are everybody's; all that was said meanwhile.
fn rotate(model: &mut Model, spec: Value) -> Vec<String> {
    let mut cluster = support::cluster(&spec);
    model.valid = valid(&spec);
    let mut said: Vec<String> = Vec::new();
    let mut issuing = Vec::new();
    for _ in 0..600 {
        let before = model.active();
        let decision = model.decide();
        said.extend(decision.steps.iter().chain(&decision.gate).cloned());
        let observation = model.observation();
        let told = status::status(model.now, &cluster, &model.valid, &observation, &decision, None);
        let used = told.keys.clone().expect("it is told");
        let ready = told
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        issuing.push((used.issuing, used.since));
        cluster.status = Some(told);
        let wanted = wanted(model.valid.spec.keys);
        let is_there = |keys: &Keys| *keys == wanted;
        if is_there(&model.keys)
            && model.is_as_wanted()
            && model.members.values().all(|member| is_there(&member.keys))
            && model.proxies.iter().all(is_there)
            && decision.gate.is_none()
            && decision.steps.is_empty()
        {
            assert!(ready, "{:?}", cluster.status);
            assert_eq!(used.verifying, wanted.verifies.into_iter().collect::<Vec<_>>());
            issuing.dedup();
            assert!(
                issuing.len() <= 2,
                "the time changes with the key that issues: {issuing:?}"
            );
            said.dedup();
            return said;
        }
        assert!(!ready, "a rotation is not over");
        model.perform(&decision);
        let away = model
            .members
            .values()
            .filter(|member| member.stand != Stand::Active)
            .count();
        assert!(
            away <= 1,
            "{away} are away: {:?}, {before} worked before",
            model.members
        );
        let ordinals: Vec<_> = model.members.keys().copied().collect();
        ordinals.into_iter().for_each(|ordinal| model.advance(ordinal));
        model.replace_proxy();
        model.wait(500);
    }
    panic!("it does not end: {said:?}");
}

/// A new cluster with its first key, at rest.
fn started(replicas: u16) -> Model {
    let mut model = Model::new(valid(&json!({ "replicas": replicas })));
    for _ in 0..20 {
        let decision = model.decide();
        model.perform(&decision);
        (0..replicas).for_each(|ordinal| model.advance(ordinal));
        model.wait(1_000);
    }
    assert!(model.is_as_wanted() && model.revision == 1);
    model
}

#[test]
fn a_rotation_is_two_rollouts_with_their_gates_and_forgetting_a_third() {
    let mut model = started(3);
    let said = rotate(&mut model, json!({ "replicas": 3, "keys": { "current": 2 } }));
    assert_eq!(model.revision, 3, "{said:?}");
    let has = |said: &[String], text: &str| said.iter().any(|one| one == text);
    assert!(
        has(&said, "all parts learn key 2") && has(&said, "key 2 is taken"),
        "{said:?}"
    );
    let waits = "key 2 is taken: demo-2 is being handed its share of the partitions";
    assert!(has(&said, waits), "{said:?}");
    let said = rotate(
        &mut model,
        json!({ "replicas": 3, "keys": { "current": 2, "oldest": 2 } }),
    );
    assert_eq!(model.revision, 4, "{said:?}");
    assert!(has(&said, "key 1 is forgotten"), "{said:?}");
}

#[test]
fn paused_no_key_is_learnt() {
    let mut model = started(2);
    let paused = |keys: serde_json::Value| valid(&json!({ "replicas": 2, "keys": keys, "paused": true }));
    model.valid = paused(json!({ "current": 2 }));
    let decision = model.decide();
    assert!(decision.steps.is_empty() && decision.gate.is_some_and(|gate| gate.starts_with("it is paused")));
    let left_alone = (decision.replicas, decision.leaves_redis);
    assert_eq!(left_alone, (None, true), "templates would have the key");
    model.valid = paused(json!({ "current": 1 }));
    let decision = model.decide();
    assert_eq!(
        (decision.replicas, decision.leaves_redis),
        (Some(2), false),
        "they are put back"
    );
}
