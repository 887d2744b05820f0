//! A rotation of the password of the cluster's own Redis, whatever happens to pods and to the operator meanwhile: nobody presents what an instance
//! refuses, and all get to what the manifest says.

mod support;

use std::sync::Arc;

use operator::sip_cluster::build::{Children, build, redis_password};
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::passwords::{Kind, Part, Passwords, Seen, passwords};
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::status;
use serde_json::{Value, json};
use support::{Model, Random, Stand, cluster, valid};

/// A StatefulSet: until its controller has seen a template, it may make pods by an older one.
#[derive(Clone, Debug)]
struct Set {
    kind: Kind,
    wanted: usize,
    /// Nothing while somebody has deleted it, and left its pods.
    template: Option<Passwords>,
    older: Vec<Passwords>,
    pods: Vec<Passwords>,
    leaving: Vec<Passwords>,
}

impl Set {
    fn new(kind: Kind) -> Self {
        let wanted = if kind == Kind::Alone { 1 } else { 3 };
        Self {
            kind,
            wanted,
            template: Some(Passwords::default()),
            older: Vec::new(),
            pods: vec![Passwords::default(); wanted],
            leaving: Vec::new(),
        }
    }

    /// What of it is this kind's: nobody else can read more.
    fn read(&self, passwords: &Passwords) -> Passwords {
        let annotations = json!({ "annotations": passwords.annotations(self.kind) });
        Passwords::of(&serde_json::from_value(annotations).expect("metadata"))
    }

    fn apply(&mut self, passwords: &Passwords) {
        let new = self.read(passwords);
        let old = self.template.replace(new.clone());
        self.older.extend(old.filter(|old| *old != new));
    }

    /// A pod more, if one is missing.
    fn fill(&mut self, random: &mut Random) {
        let older = self.older.get(random.below(1 + 2 * self.older.len() as u64) as usize);
        let template = older.or(self.template.as_ref());
        if let Some(template) = template.filter(|_| self.pods.len() < self.wanted) {
            self.pods.push(template.clone());
        }
    }

    fn leave(&mut self, which: u64) {
        if !self.pods.is_empty() {
            let pod = self.pods.remove(which as usize % self.pods.len());
            self.leaving.push(pod);
        }
    }

    /// Its controller looks.
    fn see(&mut self) {
        if self.template.is_some() {
            self.older.clear();
        }
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        let part = |pod: Option<&str>, says: &Passwords| Part {
            pod: pod.map(str::to_owned),
            kind: self.kind,
            says: says.clone(),
        };
        let templates = self.template.iter().map(move |says| part(None, says));
        let pods = self.pods.iter().chain(&self.leaving);
        templates.chain(pods.map(move |says| part(Some("demo"), says)))
    }
}

/// Redis and containers, and what the manifest says.
#[derive(Clone, Debug)]
struct World {
    manifest: u32,
    sets: [Set; 2],
}

impl World {
    fn new(redis: Kind) -> Self {
        Self {
            manifest: 1,
            sets: [redis, Kind::Container].map(Set::new),
        }
    }

    fn seen(&self) -> Seen {
        let is_settled = |set: &Set| set.template.is_some() && set.older.is_empty();
        Seen {
            parts: self.sets.iter().flat_map(Set::parts).collect(),
            is_settled: self.sets.iter().all(is_settled),
        }
    }

    /// The operator looks, and may end before it has applied both.
    fn look(&mut self, applies: usize) {
        let passwords = passwords(self.manifest, &self.seen());
        self.sets.iter_mut().take(applies).for_each(|set| set.apply(&passwords));
    }

    fn event(&mut self, random: &mut Random) {
        let [redis, containers] = &mut self.sets;
        let set = match random.below(2) {
            0 => &mut *redis,
            _ => &mut *containers,
        };
        match random.below(64) {
            0 => self.manifest += 1,
            // What an instance accepted is forgotten with the last of them, if their template is gone as well.
            1 if set.kind == Kind::Container => set.older.extend(set.template.take()),
            2..=17 => self.look(random.below(3) as usize),
            18..=25 => set.see(),
            26..=33 => set.leave(random.below(8)),
            34..=43 if !set.leaving.is_empty() => {
                set.leaving.swap_remove(random.below(64) as usize % set.leaving.len());
            }
            _ => set.fill(random),
        }
    }

    fn check(&self, what: &str) {
        let pods = |set: &Set| set.pods.iter().chain(&set.leaving).cloned().collect::<Vec<_>>();
        let [redis, containers] = &self.sets;
        let mut asking = pods(containers);
        if redis.kind == Kind::OneOfSeveral {
            asking.extend(pods(redis));
        }
        for instance in pods(redis) {
            for part in &asking {
                assert!(
                    instance.accepts.contains(&part.presents),
                    "{what}: {} is presented to {instance:?}: {self:?}",
                    part.presents
                );
            }
        }
    }

    /// Nothing goes wrong any more.
    fn settle(&mut self, random: &mut Random, what: &str) {
        for _ in 0..20 {
            self.look(2);
            self.sets.iter_mut().for_each(Set::see);
            for at in 0..self.sets.len() {
                for _ in 0..self.sets[at].wanted {
                    let set = &mut self.sets[at];
                    let template = set.template.clone();
                    if let Some(old) = set.pods.iter().position(|pod| Some(pod) != template.as_ref()) {
                        set.leave(old as u64);
                    }
                    set.fill(random);
                    self.check(what);
                    self.sets[at].leaving.clear();
                }
            }
        }
    }
}

#[test]
fn whatever_happens_nobody_presents_what_an_instance_refuses_and_all_get_there() {
    for (redis, seed) in [Kind::OneOfSeveral, Kind::Alone]
        .into_iter()
        .flat_map(|redis| (1..=500).map(move |seed| (redis, seed)))
    {
        let mut random = Random::new(seed);
        let mut world = World::new(redis);
        let what = format!("{redis:?}, seed {seed}");
        for _ in 0..400 {
            world.event(&mut random);
            world.check(&what);
        }
        world.settle(&mut random, &what);
        let wanted = only(world.manifest);
        assert_eq!(passwords(world.manifest, &world.seen()), wanted, "{what}");
        for part in world.sets.iter().flat_map(Set::parts) {
            assert!(!part.differs(&wanted), "{what}: {wanted:?}: {part:?}");
        }
    }
}

/// Where all get to.
fn only(number: u32) -> Passwords {
    Passwords {
        presents: number,
        accepts: [number].into(),
    }
}

fn said(presents: u32, accepts: &[u32]) -> Passwords {
    Passwords {
        presents,
        accepts: accepts.iter().copied().collect(),
    }
}

#[test]
fn the_steps_of_a_rotation_are_these() {
    let one = |says: &Passwords, kind, pod: Option<&str>| Part {
        pod: pod.map(str::to_owned),
        kind,
        says: says.clone(),
    };
    let learns = Some("Redis learns password 2");
    let taken = Some("password 2 of Redis is taken");
    let forgotten = Some("password 1 of Redis is forgotten");
    let first = said(1, &[1]);
    let (learnt, took, second) = (said(1, &[1, 2]), said(2, &[1, 2]), only(2));
    let third = said(2, &[1, 2, 3]);
    // What is wanted, what instances and then containers say, the first of each in the template too.
    let cases = [
        (1, vec![&first], vec![&first], &first, None),
        (2, vec![&first], vec![&first], &learnt, learns),
        (2, vec![&learnt, &first], vec![&first], &learnt, learns),
        (2, vec![&learnt], vec![&first], &took, taken),
        (2, vec![&took, &learnt], vec![&took, &first], &took, taken),
        (2, vec![&took], vec![&took, &first], &took, taken),
        (2, vec![&took], vec![&took], &second, forgotten),
        (2, vec![&second, &took], vec![&took], &second, forgotten),
        (2, vec![&second], vec![&took], &second, None),
        // Another one is asked for in the middle.
        (
            3,
            vec![&took, &learnt],
            vec![&took, &first],
            &third,
            Some("Redis learns password 3"),
        ),
    ];
    for (manifest, instances, containers, wanted, step) in cases {
        let all = |says: &[&Passwords], kind| {
            let template = one(says[0], kind, None);
            let pods = says.iter().map(|says| one(says, kind, Some("demo")));
            [template].into_iter().chain(pods).collect::<Vec<_>>()
        };
        let parts = [all(&instances, Kind::OneOfSeveral), all(&containers, Kind::Container)];
        let seen = Seen {
            parts: parts.concat(),
            is_settled: true,
        };
        let passwords = passwords(manifest, &seen);
        assert_eq!(&passwords, wanted, "{seen:?} for {manifest}");
        assert_eq!(passwords.step(&seen).as_deref(), step, "{seen:?} for {manifest}");
        let unsettled = Seen {
            is_settled: false,
            ..seen
        };
        let passwords = self::passwords(manifest, &unsettled);
        let before = unsettled.parts.iter().map(|part| part.says.presents).max();
        assert_eq!(Some(passwords.presents), before, "none is taken: {unsettled:?}");
        assert!(
            passwords.accepts.is_superset(&wanted.accepts),
            "none is forgotten: {unsettled:?}"
        );
    }
    assert_eq!(passwords(5, &Seen::default()), only(5), "a new cluster");
}

#[test]
fn what_annotations_say_is_read_again() {
    let read = |annotations: Value| {
        Passwords::of(&serde_json::from_value(json!({ "annotations": annotations })).expect("metadata"))
    };
    let passwords = said(3, &[2, 3]);
    let (presents, accepts) = ("sipcluster.dev/redis-presents", "sipcluster.dev/redis-accepts");
    for (kind, written) in [
        (Kind::OneOfSeveral, json!({ presents: "3", accepts: "2,3" })),
        (Kind::Alone, json!({ accepts: "2,3" })),
        (Kind::Container, json!({ presents: "3" })),
    ] {
        assert_eq!(json!(passwords.annotations(kind)), written);
        assert_eq!(
            Passwords::default().annotations(kind),
            None,
            "a cluster that never changed its password is not rolled"
        );
    }
    assert_eq!(read(json!({ presents: "3", accepts: "2,3" })), passwords);
    for wrong in ["", "x", "0", "1,", "-1"] {
        assert_eq!(
            read(json!({ presents: wrong, accepts: wrong })),
            Passwords::default(),
            "{wrong}"
        );
    }
}

#[test]
fn pods_that_have_ended_count_for_nothing_and_one_whose_controller_has_not_looked_settles_nothing() {
    let pod = |name: &str, phase: &str| {
        let pod = json!({ "metadata": { "name": name }, "status": { "phase": phase } });
        Arc::new(serde_json::from_value(pod).expect("a Pod"))
    };
    let set = |seen: u32| {
        let spec = json!({ "selector": {}, "serviceName": "demo", "template": {} });
        let status = json!({ "observedGeneration": seen, "replicas": 1 });
        let set = json!({ "metadata": { "generation": 2 }, "spec": spec, "status": status });
        Some(Arc::new(serde_json::from_value(set).expect("a StatefulSet")))
    };
    let mut found = Found {
        containers: set(2),
        redis: set(2),
        container_pods: vec![pod("demo-0", "Failed"), pod("demo-1", "Unknown")],
        redis_pods: vec![pod("demo-redis-0", "Running")],
        ..Found::default()
    };
    let seen = Seen::of(&found, Kind::Alone, 2, true);
    let named: Vec<_> = seen.parts.iter().map(|part| (part.pod.as_deref(), part.kind)).collect();
    assert_eq!(
        named,
        [
            (None, Kind::Alone),
            (Some("demo-redis-0"), Kind::Alone),
            (None, Kind::Container),
            (Some("demo-1"), Kind::Container),
        ]
    );
    assert!(seen.is_settled && !Seen::of(&found, Kind::Alone, 2, false).is_settled);
    let written = json!({ "metadata": { "generation": 2 }, "spec": { "selector": {}, "serviceName": "demo", "template": {
        "metadata": { "annotations": { "sipcluster.dev/redis-presents": "9" } } } } });
    found.containers = Some(Arc::new(serde_json::from_value(written).expect("a StatefulSet")));
    let presented = |seen: &Seen| seen.parts.iter().map(|part| part.says.presents).max();
    assert_eq!(
        presented(&Seen::of(&found, Kind::Alone, 2, false)),
        Some(1),
        "nobody has asked for 9"
    );
    assert_eq!(presented(&Seen::of(&found, Kind::Alone, 9, false)), Some(9));
    found.redis = set(1);
    assert!(!Seen::of(&found, Kind::Alone, 2, true).is_settled);
    found.redis = None;
    assert!(
        !Seen::of(&found, Kind::Alone, 2, true).is_settled,
        "somebody has deleted it"
    );
}

fn children(spec: &Value, passwords: Passwords) -> Children {
    let decision = Decision {
        replicas: Some(2),
        passwords,
        ..Decision::default()
    };
    build(&valid(spec), &decision)
}

/// The variables of a workload's process that hold passwords, with the Secret that a value comes from.
fn variables(workload: &Value, process: usize) -> Vec<(String, String)> {
    let all = workload.pointer(&format!("/spec/template/spec/containers/{process}/env"));
    let all = all.and_then(Value::as_array).expect("variables").iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = all.map(|one| {
        let secret = &one["valueFrom"]["secretKeyRef"];
        (text(&one["name"]), text(&one["value"]) + &text(&secret["name"]))
    });
    pairs.filter(|(name, _)| name.contains("PASSWORD")).collect()
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    let all = all.iter().map(|(name, from)| ((*name).to_owned(), (*from).to_owned()));
    all.collect()
}

#[test]
fn each_process_is_told_its_passwords() {
    let several = json!({ "redis": { "managed": { "instances": 3 } } });
    let told = |passwords: Passwords| {
        let children = children(&several, passwords);
        let set = children
            .redis
            .and_then(|redis| redis.set)
            .expect("its addresses are known");
        let set = serde_json::to_value(set).expect("JSON");
        let (server, sentinel) = (variables(&set, 0), variables(&set, 1));
        assert_eq!(server, sentinel);
        let workload = children.workload.expect("its addresses are known");
        let containers = serde_json::to_value(workload.containers).expect("JSON");
        let template = containers.pointer("/spec/template/metadata/annotations").cloned();
        (server, variables(&containers, 0), template, children.redis_passwords)
    };
    let first = pairs(&[("REDIS_PASSWORD", "demo-keys")]);
    assert_eq!(
        told(Passwords::default()),
        (first.clone(), first.clone(), None, [].into())
    );
    let learnt = pairs(&[
        ("REDIS_PASSWORD", "demo-keys"),
        ("REDIS_PASSWORD_2", "demo-redis-password-2"),
        ("REDIS_OTHER_PASSWORDS", "$(REDIS_PASSWORD_2)"),
    ]);
    assert_eq!(told(said(1, &[1, 2])), (learnt, first, None, [2].into()));
    let taken = pairs(&[
        ("REDIS_PASSWORD", "demo-redis-password-2"),
        ("REDIS_PASSWORD_1", "demo-keys"),
        ("REDIS_PASSWORD_3", "demo-redis-password-3"),
        ("REDIS_OTHER_PASSWORDS", "$(REDIS_PASSWORD_1) $(REDIS_PASSWORD_3)"),
    ]);
    let second = pairs(&[("REDIS_PASSWORD", "demo-redis-password-2")]);
    let says = json!({ "sipcluster.dev/redis-presents": "2" });
    assert_eq!(
        told(said(2, &[1, 2, 3])),
        (taken, second.clone(), Some(says.clone()), [2, 3].into())
    );
    assert_eq!(told(only(2)), (second.clone(), second, Some(says), [2].into()));
}

#[test]
fn a_single_redis_is_opened_by_each_and_not_replaced_for_what_others_present() {
    let set = |passwords: Passwords| {
        let redis = children(&json!({}), passwords).redis.expect("a Redis of its own");
        serde_json::to_value(redis.set.expect("a StatefulSet")).expect("JSON")
    };
    let arguments = |set: &Value| {
        let all = set
            .pointer("/spec/template/spec/containers/0/args")
            .and_then(Value::as_array);
        let all = all.expect("arguments").iter().filter_map(Value::as_str);
        all.skip_while(|argument| *argument != "noeviction")
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        arguments(&set(Passwords::default())),
        ["--requirepass", "$(REDIS_PASSWORD)"]
    );
    let learnt = set(said(1, &[1, 2]));
    assert_eq!(learnt, set(said(2, &[1, 2])));
    assert_eq!(
        arguments(&learnt).join(" "),
        "--user default on ~* &* +@all >$(REDIS_PASSWORD) >$(REDIS_PASSWORD_2)"
    );
    assert_eq!(
        variables(&learnt, 0),
        pairs(&[
            ("REDIS_PASSWORD", "demo-keys"),
            ("REDIS_PASSWORD_2", "demo-redis-password-2")
        ])
    );
    let forgotten = set(only(2));
    assert_eq!(arguments(&forgotten), ["--requirepass", "$(REDIS_PASSWORD)"]);
    assert_eq!(
        variables(&forgotten, 0),
        pairs(&[("REDIS_PASSWORD", "demo-redis-password-2")])
    );
}

#[test]
fn a_secret_is_immutable_and_holds_one_password() {
    let secret = redis_password(&valid(&json!({})), 2, [0xab; 16]);
    assert_eq!(
        (secret.metadata.name.as_deref(), secret.immutable),
        (Some("demo-redis-password-2"), Some(true))
    );
    let data = secret.data.expect("it holds something").into_iter();
    let data: Vec<_> = data.map(|(name, value)| (name, value.0)).collect();
    assert_eq!(data, [("redis-password".to_owned(), "ab".repeat(16).into_bytes())]);
}

/// A new cluster at rest.
fn started(spec: &Value) -> Model {
    let mut model = Model::new(valid(spec));
    for _ in 0..20 {
        let decision = model.decide();
        model.perform(&decision);
        (0..2).for_each(|ordinal| model.advance(ordinal));
        model.wait(1_000);
    }
    assert!(model.is_as_wanted() && (model.revision, model.redis_revision) == (1, 1));
    model
}

/// Nobody presents what an instance refuses.
fn assert_opened(model: &Model) {
    let is_one = model.redis.len() == 1;
    let instances = model.redis.values().map(|instance| &instance.passwords);
    let members = model.members.values().map(|member| &member.passwords);
    for asks in members.chain(instances.clone().filter(|_| !is_one)) {
        let accept = instances
            .clone()
            .all(|instance| instance.accepts.contains(&asks.presents));
        assert!(accept, "{asks:?}: {:?}", model.redis);
    }
}

/// Lets the model go on until the manifest's password is everybody's: all that was said meanwhile, and which instances were replaced.
fn rotate(model: &mut Model, spec: &Value) -> (Vec<String>, Vec<u16>) {
    model.valid = valid(spec);
    let (mut told, mut replaced) = (Vec::new(), Vec::new());
    let wanted = only(model.valid.spec.redis_password());
    for _ in 0..400 {
        let decision = model.decide();
        told.extend(decision.steps.iter().chain(&decision.gate).cloned());
        let observation = model.observation();
        let status = status::status(model.now, &cluster(spec), &model.valid, &observation, &decision, None);
        let mut conditions = status.conditions.iter();
        let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let is_over = model.passwords == wanted
            && model.is_as_wanted()
            && model
                .redis
                .values()
                .all(|instance| instance.in_sync && instance.passwords == wanted)
            && decision.steps.is_empty()
            && decision.gate.is_none();
        assert_eq!(ready, is_over, "{status:?}");
        if is_over {
            told.dedup();
            return (told, replaced);
        }
        model.perform(&decision);
        let members = model.members.values();
        let away = members.filter(|member| member.stand != Stand::Active).count()
            + model.redis.values().filter(|instance| !instance.in_sync).count();
        let gone = model.replace_redis(&decision, false);
        assert!(away + gone.len() <= 1, "{:?} {:?}", model.members, model.redis);
        replaced.extend(&gone);
        assert_opened(model);
        if gone.is_empty() {
            model.redis.values_mut().for_each(|instance| instance.in_sync = true);
        }
        (0..2).for_each(|ordinal| model.advance(ordinal));
        assert_opened(model);
        model.wait(500);
    }
    panic!("it does not end: {told:?}");
}

#[test]
fn a_rotation_is_three_rollouts_of_redis_and_one_of_containers_with_their_gates() {
    let spec =
        |password: u32| json!({ "replicas": 2, "redis": { "managed": { "instances": 3, "password": password } } });
    let mut model = started(&spec(1));
    let (told, replaced) = rotate(&mut model, &spec(2));
    assert_eq!((model.revision, model.redis_revision), (2, 4), "{told:?}");
    assert_eq!(replaced, [2, 1, 0, 2, 1, 0, 2, 1, 0]);
    let has = |text: &str| told.iter().any(|one| one == text);
    for step in [
        "Redis learns password 2",
        "Redis learns password 2: demo-redis-1 does not answer yet",
        "password 2 of Redis is taken",
        "password 2 of Redis is taken: demo-1 is being handed its share of the partitions",
        "password 1 of Redis is forgotten",
        "password 1 of Redis is forgotten: demo-redis-0 does not answer yet",
    ] {
        assert!(has(step), "{step}: {told:?}");
    }
}

#[test]
fn a_single_redis_is_replaced_twice_for_it() {
    let spec = |password: u32| json!({ "replicas": 2, "redis": { "managed": { "password": password } } });
    let mut model = started(&spec(1));
    for password in [2, 3] {
        let (told, replaced) = rotate(&mut model, &spec(password));
        assert_eq!(replaced, [0, 0], "{told:?}");
        assert_eq!((model.revision, model.redis_revision), (password, 2 * password - 1));
    }
}

#[test]
fn paused_no_password_is_learnt() {
    let mut model = started(&json!({ "replicas": 2 }));
    model.valid = valid(&json!({ "replicas": 2, "redis": { "managed": { "password": 2 } }, "paused": true }));
    let decision = model.decide();
    assert!(decision.steps.is_empty() && decision.gate.is_some_and(|gate| gate.starts_with("it is paused")));
    let left_alone = (decision.replicas, decision.leaves_redis);
    assert_eq!(left_alone, (None, true), "templates would have the password");
}
