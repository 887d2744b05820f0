//! What the operator does with a StatefulSet, from any state and in any order of events: it gets to what is wanted, and never takes a second
//! container away while one is not fully active.

mod support;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use operator::sip_cluster::dereference::Made;
use operator::sip_cluster::plan::decide;
use serde_json::json;
use support::{Model, Random, Stand, valid};

/// Lets pods go on and the operator look, in turns, until all is as wanted; a step that costs a second container fails.
fn settle(model: &mut Model, what: &str) {
    for _ in 0..400 {
        look(model, what);
        let ordinals: Vec<_> = model.members.keys().copied().collect();
        ordinals.into_iter().for_each(|ordinal| model.advance(ordinal));
        model.wait(500);
        if model.is_as_wanted() && model.decide().gate.is_none() {
            // A move waits until the last one has settled.
            return model.wait(2_000);
        }
    }
    panic!(
        "{what}: it does not settle: {:?}, waits for {:?}",
        model.members,
        model.decide().gate
    );
}

/// The operator looks once.
fn look(model: &mut Model, what: &str) {
    let before = model.clone();
    let decision = model.decide();
    model.perform(&decision);
    let taken: Vec<_> = before
        .members
        .iter()
        .filter(|(ordinal, member)| {
            let now = model.members.get(ordinal).map(|member| member.stand);
            member.stand == Stand::Active && now != Some(Stand::Active)
        })
        .map(|(ordinal, _)| *ordinal)
        .collect();
    let wanted = model.valid.spec.replicas as u16;
    let away = before
        .members
        .iter()
        .filter(|(ordinal, member)| **ordinal < wanted && member.stand != Stand::Active);
    let away: Vec<_> = away.map(|(ordinal, _)| *ordinal).collect();
    assert!(
        taken.len() <= 1,
        "{what}: {taken:?} are taken away at once: {:?}, {:?} wanted, {decision:?}",
        before.members,
        model.valid.spec.replicas
    );
    assert!(
        taken.is_empty() || away.is_empty(),
        "{what}: {taken:?} is taken away while {away:?} are not active: {:?}",
        before.members
    );
}

#[test]
fn first_containers_start_together() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    let decision = model.decide();
    assert_eq!(decision.replicas, Some(3));
    settle(&mut model, "start");
}

#[test]
fn scaling_goes_one_pod_at_a_time_and_takes_the_highest() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    model.valid = valid(&json!({ "replicas": 4 }));
    let decision = model.decide();
    assert_eq!(
        (decision.replicas, decision.steps.as_slice()),
        (Some(3), ["demo-2 is being started".to_owned()].as_slice())
    );
    settle(&mut model, "up");
    model.valid = valid(&json!({ "replicas": 2 }));
    let decision = model.decide();
    assert_eq!((decision.replicas, decision.leave.len()), (Some(3), 0));
    settle(&mut model, "down");
    assert_eq!(model.replicas, Some(2));
}

#[test]
fn a_rollout_that_is_stuck_stops_there_says_why_and_is_repaired_by_the_next() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    model.broken.push(2);
    model.revision = 2;
    for _ in 0..100 {
        look(&mut model, "bad image");
        (0..3).for_each(|ordinal| model.advance(ordinal));
        model.wait(500);
    }
    assert_eq!(model.active(), 2, "two go on");
    assert_eq!(model.decide().gate.as_deref(), Some("demo-2 does not answer"));
    model.revision = 3;
    let decision = model.decide();
    let names: Vec<_> = decision.leave.iter().map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!(names, [Some("demo-2")], "the broken one goes first");
    settle(&mut model, "good image");
}

#[test]
fn a_lost_container_is_given_up_and_one_that_is_being_removed_is_only_if_it_stays() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    for (grace, over, given_up) in [(25, 1, 1), (0, 1, 0), (0, 11, 1)] {
        let mut observation = model.observation();
        let silent = &mut observation.containers[2];
        silent.answer = None;
        let pod = Arc::make_mut(&mut silent.pod);
        pod.metadata.deletion_timestamp = Some(Time(model.now - SignedDuration::from_secs(over)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        let decision = decide(model.now, &model.valid, &model.found(), &observation);
        assert_eq!(decision.bury.len(), given_up, "{over} s after a grace of {grace} s");
        observation.unowned = 300;
        let decision = decide(model.now, &model.valid, &model.found(), &observation);
        assert_eq!(decision.bury.len(), 0, "it has its lease, as far as others know");
    }
}

/// As the only one, or with all others on the same node.
#[test]
fn a_lost_container_that_nobody_took_over_from_is_given_up_if_no_other_answers() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    let buried = |over| {
        let mut observation = model.observation();
        observation.unowned = model.valid.spec.partitions;
        for container in &mut observation.containers {
            container.answer = None;
            let pod = Arc::make_mut(&mut container.pod);
            pod.metadata.deletion_timestamp = Some(Time(model.now - SignedDuration::from_secs(over)));
        }
        decide(model.now, &model.valid, &model.found(), &observation).bury.len()
    };
    assert_eq!((buried(1), buried(11)), (0, 2));
}

#[test]
fn a_container_that_works_but_is_not_heard_is_not_taken_for_lost() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    model.unheard = vec![0, 1, 2];
    model.revision = 2;
    for _ in 0..20 {
        let decision = model.decide();
        assert_eq!((decision.leave.len(), decision.bury.len()), (0, 0));
        assert!(decision.gate.is_some(), "it says what it waits for");
        model.perform(&decision);
        model.wait(500);
    }
}

/// Its probes fail and the operator does not hear it, for want of a processor, but it keeps its lease: with it two would be away.
#[test]
fn a_container_that_keeps_what_it_owns_is_not_the_next_to_go_for_being_silent() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    model.revision = 2;
    let told = |unowned, state: &serde_json::Value| {
        let mut observation = model.observation();
        observation.unowned = unowned;
        let silent = &mut observation.containers[1];
        silent.answer = None;
        let pod = Arc::make_mut(&mut silent.pod).status.get_or_insert_default();
        pod.conditions = None;
        pod.container_statuses = serde_json::from_value(json!([{
            "name": "container", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state,
        }]))
        .expect("statuses");
        let decision = decide(model.now, &model.valid, &model.found(), &observation);
        let leave = decision.leave.iter().map(|pod| pod.metadata.name.clone());
        leave.collect::<Vec<_>>()
    };
    let (runs, waits) = (json!({ "running": {} }), json!({ "waiting": {} }));
    let it = [Some("demo-1".to_owned())];
    assert_eq!(told(300, &runs), []);
    assert_eq!(told(0, &runs), it, "others have taken over");
    assert_eq!(told(300, &waits), it, "there is no process");
}

/// Its node has lost its way to Redis, say: others own what it had, and it would never have two copies again.
#[test]
fn a_container_without_a_second_copy_goes_if_it_owns_nothing() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    model.valid = valid(&json!({ "replicas": 2 }));
    let told = |partitions| {
        let mut observation = model.observation();
        let answer = observation.containers[2].answer.as_mut().expect("it answers");
        (answer.replicated, answer.partitions) = (false, partitions);
        let decision = decide(model.now, &model.valid, &model.found(), &observation);
        (decision.replicas, decision.gate)
    };
    let waits = Some("demo-2 is catching up in replication".to_owned());
    assert_eq!((told(7), told(0)), ((Some(3), waits), (Some(2), None)));
}

#[test]
fn a_single_redis_that_holds_the_copies_is_not_given_up() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    let mut found = model.found();
    let pod = Arc::make_mut(&mut found.redis_pods[0]);
    pod.metadata.deletion_timestamp = Some(Time(model.now - SignedDuration::from_secs(60)));
    let buried = |is_heard: bool| {
        let mut observation = model.observation();
        for container in &mut observation.containers {
            let answer = container.answer.as_mut().expect("it answers");
            (answer.replicated, answer.from_memory) = (is_heard, !is_heard);
        }
        decide(model.now, &model.valid, &found, &observation).bury.len()
    };
    assert_eq!((buried(true), buried(false)), (0, 1));
}

#[test]
fn scaling_back_what_never_came_leaves_nothing_behind() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    model.quota = 2;
    model.valid = valid(&json!({ "replicas": 4 }));
    for _ in 0..10 {
        look(&mut model, "no room");
        model.wait(500);
    }
    assert_eq!(model.replicas, Some(3));
    model.valid = valid(&json!({ "replicas": 2 }));
    settle(&mut model, "back");
    assert_eq!(model.replicas, Some(2));
}

#[test]
fn while_the_cache_is_behind_the_statefulset_is_left_alone() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    let behind = operator::sip_cluster::observe::Observation {
        is_current: false,
        is_behind: true,
        ..model.observation()
    };
    model.valid = valid(&json!({ "replicas": 4 }));
    let decision = operator::sip_cluster::plan::decide(model.now, &model.valid, &model.found(), &behind);
    assert_eq!((decision.replicas, decision.leave.len()), (None, 0));
}

/// Its template is read to know which password comes next.
#[test]
fn while_the_cache_is_behind_redis_is_left_alone() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    for is_behind in [false, true] {
        let mut observation = model.observation();
        observation.redis.is_behind = is_behind;
        let decision = operator::sip_cluster::plan::decide(model.now, &model.valid, &model.found(), &observation);
        let redis = operator::sip_cluster::build::build(&model.valid, &decision).redis;
        let set = redis.expect("it has one").set;
        assert_eq!(set.is_none(), is_behind);
    }
}

#[test]
fn somebody_elses_statefulset_is_put_back_and_nobody_replaced_for_it() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    model.valid = valid(&json!({ "replicas": 4 }));
    let changed = operator::sip_cluster::observe::Observation {
        is_current: false,
        revision: Some(1),
        ..model.observation()
    };
    let deleted = operator::sip_cluster::dereference::Found {
        containers: None,
        ..model.found()
    };
    for found in [model.found(), deleted] {
        let decision = operator::sip_cluster::plan::decide(model.now, &model.valid, &found, &changed);
        assert_eq!((decision.replicas, decision.leave.len()), (Some(2), 0));
    }
}

#[test]
fn an_object_put_in_anothers_place_is_not_behind_it() {
    let made = |uid: &str, generation| Made {
        uid: Some(uid.into()),
        generation: Some(generation),
    };
    assert!(made("first", 1).is_behind(&made("first", 2)));
    assert!(!made("first", 2).is_behind(&made("first", 2)));
    assert!(!made("second", 1).is_behind(&made("first", 2)));
}

#[test]
fn what_was_applied_and_not_taken_up_yet_is_not_ready() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    let (found, decision) = (model.found(), model.decide());
    let ready = |workload: &str, generation| {
        let applied = |_: &str, name: &str| {
            let generation = Some(if name == workload { generation } else { 1 });
            Some(Made { uid: None, generation })
        };
        let observation = model.observation().after(&found, &model.valid.names, applied);
        let cluster = support::cluster(&json!({ "replicas": 2 }));
        let status =
            operator::sip_cluster::status::status(model.now, &cluster, &model.valid, &observation, &decision, None);
        let condition = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == "Ready");
        condition.map(|condition| condition.status)
    };
    for workload in ["demo", "demo-proxy"] {
        assert_eq!(ready(workload, 1).as_deref(), Some("True"), "{workload}");
        assert_eq!(ready(workload, 2).as_deref(), Some("False"), "{workload}");
    }
    for changed_by_somebody in ["demo", "demo-redis"] {
        assert_eq!(
            ready(changed_by_somebody, 0).as_deref(),
            Some("False"),
            "{changed_by_somebody}"
        );
    }
}

#[test]
fn the_last_failover_is_what_all_survivors_took_over() {
    let mut model = Model::new(valid(&json!({ "replicas": 3 })));
    settle(&mut model, "start");
    let part = |begun_ms, partitions| admin::Takeover {
        begun_ms,
        ended_ms: begun_ms + 200,
        partitions,
        sessions: partitions * 2,
    };
    let mut cluster = support::cluster(&json!({ "replicas": 3 }));
    let mut told = |parts: [Option<admin::Takeover>; 3]| {
        let mut observation = model.observation();
        for (container, part) in observation.containers.iter_mut().zip(parts) {
            container.takeover = part;
        }
        let (found, decision) = (model.found(), model.decide());
        let observation = observation.after(&found, &model.valid.names, |_, _| None);
        let status =
            operator::sip_cluster::status::status(model.now, &cluster, &model.valid, &observation, &decision, None);
        let last = status.last_failover.clone();
        cluster.status = Some(status);
        last.map(|last| {
            (
                last.time.0.as_millisecond(),
                last.partitions,
                last.sessions,
                last.duration_ms,
            )
        })
    };
    assert_eq!(told([None; 3]), None);
    let both = Some((1_000, 500, 1_000, 300));
    assert_eq!(told([Some(part(1_000, 200)), None, Some(part(1_100, 300))]), both);
    assert_eq!(
        told([Some(part(1_000, 200)), None, None]),
        both,
        "a survivor has ended since"
    );
    assert_eq!(told([None; 3]), both);
    let later = Some((90_000, 10, 20, 200));
    assert_eq!(told([Some(part(1_000, 200)), Some(part(90_000, 10)), None]), later);
    assert_eq!(
        told([Some(part(1_000, 200)), None, None]),
        later,
        "an older one that was larger"
    );
}

#[test]
fn paused_nothing_is_added_or_taken_away() {
    let mut model = Model::new(valid(&json!({ "replicas": 2 })));
    settle(&mut model, "start");
    model.valid = valid(&json!({ "replicas": 4, "paused": true }));
    model.revision = 2;
    let decision = model.decide();
    assert_eq!(
        (decision.replicas, decision.leave.len(), decision.steps.len()),
        (Some(2), 0, 0)
    );
    assert!(decision.gate.is_some_and(|gate| gate.contains("spec.paused")));
    model.valid = valid(&json!({ "replicas": 1, "paused": true }));
    model.members.remove(&1);
    assert_eq!(
        model.decide().replicas,
        Some(2),
        "the one that is missing is to come back"
    );
}

/// Pods fail, the manifest changes its count and its template, pods go on at their own pace; then everything is left alone.
#[test]
fn from_any_state_it_settles_and_never_takes_a_second_container_away() {
    for seed in 1..=500 {
        let mut random = Random::new(seed);
        let mut model = Model::new(valid(&json!({ "replicas": 1 + random.below(5) })));
        for _ in 0..60 {
            match random.below(8) {
                0 => model.valid = valid(&json!({ "replicas": 1 + random.below(5) })),
                1 => model.revision += 1,
                2 => {
                    let victim = random.below(6) as u16;
                    if let Some(member) = model
                        .members
                        .get_mut(&victim)
                        .filter(|member| member.stand != Stand::Leaving)
                    {
                        member.stand = Stand::Away;
                    }
                }
                3 => look(&mut model, &format!("seed {seed}")),
                _ => {
                    let ordinal = random.below(6) as u16;
                    model.advance(ordinal);
                    model.wait(random.below(1500) as i64);
                    look(&mut model, &format!("seed {seed}"));
                }
            }
        }
        settle(&mut model, &format!("seed {seed}"));
    }
}
