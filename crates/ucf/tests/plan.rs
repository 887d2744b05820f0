//! The planner against a world that obeys it slowly, and in which parts fail.

use std::time::Duration;

use proptest::prelude::*;
use sip::Instant;
use ucf::plan::{Gate, Life, Observed, Part, Plan, Revisions, SETTLE, Step, Wanted, Who, plan};

const WANTED: Wanted = Wanted {
    containers: 3,
    proxies: 2,
    redis: true,
    revisions: Revisions {
        containers: 1,
        proxies: 1,
        redis: 1,
    },
};

const fn at(millis: u64) -> Instant {
    Instant::from_micros(millis * 1000)
}

const ACTIVE: Life = Life::Active {
    since: at(0),
    replicated: true,
};

fn part(ordinal: u16, life: Life) -> Part {
    Part {
        ordinal,
        revision: 1,
        life,
    }
}

/// Everything as `WANTED` has it.
fn settled() -> Observed {
    Observed {
        redis: Some(part(0, ACTIVE)),
        containers: (0..3).map(|ordinal| part(ordinal, ACTIVE)).collect(),
        proxies: (0..2).map(|ordinal| part(ordinal, ACTIVE)).collect(),
        unowned: 0,
    }
}

fn plan_at_10s(wanted: &Wanted, observed: &Observed) -> Plan {
    plan(at(10_000), wanted, observed)
}

#[test]
fn from_nothing_redis_and_proxies_start_first_and_containers_together_once_redis_answers() {
    let first = plan_at_10s(&WANTED, &Observed::default());
    assert_eq!(
        first.steps,
        [Step::StartRedis, Step::StartProxy(0), Step::StartProxy(1)]
    );
    assert_eq!(first.gate, Some(Gate::Redis));
    let observed = Observed {
        containers: vec![],
        ..settled()
    };
    let second = plan_at_10s(&WANTED, &observed);
    assert_eq!(
        second.steps,
        [
            Step::StartContainer(0),
            Step::StartContainer(1),
            Step::StartContainer(2)
        ]
    );
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    assert!(plan_at_10s(&WANTED, &settled()).is_done());
}

#[test]
fn a_redis_of_others_is_not_started() {
    let wanted = Wanted { redis: false, ..WANTED };
    let plan = plan_at_10s(
        &wanted,
        &Observed {
            redis: None,
            containers: vec![],
            ..settled()
        },
    );
    assert_eq!(plan.steps.len(), 3, "{plan:?}");
    assert!(!plan.steps.contains(&Step::StartRedis));
}

#[test]
fn failed_containers_start_again_together_after_their_pause() {
    let mut observed = settled();
    observed.containers[0].life = Life::Failed { again: at(9_000) };
    observed.containers[1].life = Life::Failed { again: at(10_000) };
    observed.containers[2].life = Life::Failed { again: at(10_500) };
    let plan = plan_at_10s(&WANTED, &observed);
    assert_eq!(plan.steps, [Step::StartContainer(0), Step::StartContainer(1)]);
    assert_eq!(plan.gate, Some(Gate::Backoff(Who::Container(2))));
    assert_eq!(plan.again, Some(at(10_500)));
}

#[test]
fn containers_are_left_alone_while_redis_is_away() {
    let observed = Observed {
        redis: Some(part(0, Life::Failed { again: at(9_000) })),
        ..settled()
    };
    let plan = plan_at_10s(
        &Wanted {
            containers: 2,
            ..WANTED
        },
        &observed,
    );
    assert_eq!(plan.steps, [Step::StartRedis]);
}

#[test]
fn growing_adds_one_container_after_every_gate_of_the_last() {
    let wanted = Wanted {
        containers: 5,
        ..WANTED
    };
    assert_eq!(plan_at_10s(&wanted, &settled()).steps, [Step::StartContainer(3)]);
    let container = Who::Container(3);
    for (life, gate) in [
        (Life::Unready, Gate::Ready(container)),
        (Life::Joining, Gate::Share(container)),
        (
            Life::Active {
                since: at(0),
                replicated: false,
            },
            Gate::Replication(container),
        ),
        (
            Life::Active {
                since: at(9_500),
                replicated: true,
            },
            Gate::Settled(container),
        ),
        (Life::Failed { again: at(11_000) }, Gate::Backoff(container)),
    ] {
        let mut observed = settled();
        observed.containers.push(part(3, life));
        let plan = plan_at_10s(&wanted, &observed);
        assert_eq!((plan.steps.as_slice(), plan.gate), (&[][..], Some(gate)));
    }
    let mut observed = settled();
    observed.containers.push(part(
        3,
        Life::Active {
            since: at(9_000),
            replicated: true,
        },
    ));
    assert_eq!(plan_at_10s(&wanted, &observed).steps, [Step::StartContainer(4)]);
}

#[test]
fn shrinking_takes_the_highest_and_waits_until_it_is_gone() {
    let wanted = Wanted {
        containers: 1,
        ..WANTED
    };
    assert_eq!(plan_at_10s(&wanted, &settled()).steps, [Step::QuiesceContainer(2)]);
    let mut observed = settled();
    observed.containers[2].life = Life::Leaving;
    let plan = plan_at_10s(&wanted, &observed);
    assert_eq!(
        (plan.steps.as_slice(), plan.gate),
        (&[][..], Some(Gate::Gone(Who::Container(2))))
    );
    observed.containers.pop();
    assert_eq!(plan_at_10s(&wanted, &observed).steps, [Step::QuiesceContainer(1)]);
}

#[test]
fn a_container_with_the_only_copy_is_not_the_next_to_go() {
    let mut observed = settled();
    observed.containers[2].life = Life::Active {
        since: at(0),
        replicated: false,
    };
    let smaller = Wanted {
        containers: 2,
        ..WANTED
    };
    for wanted in [smaller, new_containers()] {
        let plan = plan_at_10s(&wanted, &observed);
        assert_eq!(
            (plan.steps.as_slice(), plan.gate),
            (&[][..], Some(Gate::Replication(Who::Container(2))))
        );
    }
}

#[test]
fn nothing_is_moved_while_a_partition_has_no_owner() {
    let observed = Observed {
        unowned: 7,
        ..settled()
    };
    for containers in [1, 3, 5] {
        let plan = plan_at_10s(&Wanted { containers, ..WANTED }, &observed);
        assert_eq!(
            (plan.steps.as_slice(), plan.gate),
            (&[][..], Some(Gate::Owners { unowned: 7 }))
        );
    }
}

/// `WANTED` with containers of another revision.
fn new_containers() -> Wanted {
    let revisions = Revisions {
        containers: 2,
        ..WANTED.revisions
    };
    Wanted { revisions, ..WANTED }
}

#[test]
fn a_rollout_begins_with_an_inactive_container_and_goes_on_with_the_highest() {
    let mut observed = settled();
    observed.containers[1].life = Life::Unready;
    assert_eq!(
        plan_at_10s(&new_containers(), &observed).steps,
        [Step::QuiesceContainer(1)]
    );
    assert_eq!(
        plan_at_10s(&new_containers(), &settled()).steps,
        [Step::QuiesceContainer(2)]
    );
}

#[test]
fn a_rollout_touches_only_the_kind_whose_revision_changed() {
    let proxies = Revisions {
        proxies: 2,
        ..WANTED.revisions
    };
    let redis = Revisions {
        redis: 2,
        ..WANTED.revisions
    };
    for (revisions, step) in [(proxies, Step::DrainProxy(1)), (redis, Step::StopRedis)] {
        let wanted = Wanted { revisions, ..WANTED };
        assert_eq!(plan_at_10s(&wanted, &settled()).steps, [step]);
    }
}

#[test]
fn redis_is_restarted_only_while_every_container_has_a_second_copy_and_the_next_move_waits_for_its_return() {
    let revisions = Revisions {
        redis: 2,
        containers: 2,
        ..WANTED.revisions
    };
    let wanted = Wanted { revisions, ..WANTED };
    let mut observed = settled();
    for part in &mut observed.containers {
        part.revision = 2;
    }
    observed.containers[0].life = Life::Active {
        since: at(0),
        replicated: false,
    };
    let plan = plan_at_10s(&wanted, &observed);
    assert_eq!(
        (plan.steps.as_slice(), plan.gate),
        (&[][..], Some(Gate::Replication(Who::Container(0))))
    );
    observed.containers[0].life = ACTIVE;
    assert_eq!(plan_at_10s(&wanted, &observed).steps, [Step::StopRedis]);
    observed.redis = Some(part(0, Life::Leaving));
    assert_eq!(plan_at_10s(&wanted, &observed).gate, Some(Gate::Gone(Who::Redis)));
    observed.redis = None;
    assert_eq!(plan_at_10s(&wanted, &observed).steps, [Step::StartRedis]);
    let fresh = Life::Active {
        since: at(9_900),
        replicated: true,
    };
    observed.redis = Some(Part {
        revision: 2,
        ..part(0, fresh)
    });
    assert!(plan_at_10s(&wanted, &observed).is_done());
    let fewer = Wanted {
        containers: 2,
        ..wanted
    };
    let plan = plan_at_10s(&fewer, &observed);
    assert_eq!(
        (plan.steps.as_slice(), plan.gate, plan.again),
        (&[][..], Some(Gate::Settled(Who::Redis)), Some(at(10_900)))
    );
}

#[test]
fn a_cluster_that_is_as_wanted_waits_for_nobody_to_settle_but_hides_nobody_who_does_not_work() {
    let mut observed = settled();
    observed.containers[0].life = Life::Active {
        since: at(9_900),
        replicated: true,
    };
    assert!(plan_at_10s(&WANTED, &observed).is_done());
    observed.containers[2].life = Life::Joining;
    assert_eq!(
        plan_at_10s(&WANTED, &observed).gate,
        Some(Gate::Share(Who::Container(2)))
    );
    observed.containers[2].life = ACTIVE;
    observed.proxies[1].life = Life::Joining;
    assert_eq!(plan_at_10s(&WANTED, &observed).gate, Some(Gate::Ready(Who::Proxy(1))));
}

#[test]
fn parts_of_two_kinds_that_look_alike_are_told_apart() {
    // The proxy to be drained has ordinal, revision and life of a container that has not settled.
    let fresh = Life::Active {
        since: at(9_900),
        replicated: true,
    };
    let wanted = Wanted { proxies: 1, ..WANTED };
    let mut observed = settled();
    observed.containers[1].life = fresh;
    observed.proxies[1].life = fresh;
    let plan = plan_at_10s(&wanted, &observed);
    assert_eq!(
        (plan.steps.as_slice(), plan.gate),
        (&[][..], Some(Gate::Settled(Who::Container(1))))
    );
}

#[test]
fn a_repair_reaches_a_cluster_of_which_nothing_works() {
    let mut observed = settled();
    for part in &mut observed.containers {
        part.life = Life::Unready;
    }
    let plan = plan_at_10s(&new_containers(), &observed);
    assert_eq!(plan.steps, [Step::QuiesceContainer(2)]);
}

#[test]
fn steps_and_gates_are_told_in_the_names_of_the_cluster() {
    let name = |who| match who {
        Who::Redis => "a-proxy-b-redis".to_owned(),
        Who::Proxy(ordinal) => format!("a-proxy-b-proxy-{ordinal}"),
        Who::Container(ordinal) => format!("a-proxy-b-{ordinal}"),
    };
    assert_eq!(
        Step::DrainProxy(1).describe(name),
        "a-proxy-b-proxy-1 is told to drain and to leave"
    );
    assert_eq!(
        Gate::Gone(Who::Container(3)).describe(name),
        "a-proxy-b-3 is handing over what it has"
    );
    assert_eq!(Gate::Gone(Who::Redis).describe(name), "a-proxy-b-redis is ending");
}

/// How parts of the generated world behave.
struct World {
    now: Instant,
    wanted: Wanted,
    observed: Observed,
    /// Decides who gets on, who stays and who fails.
    luck: Vec<u8>,
    drawn: usize,
}

impl World {
    fn draw(&mut self) -> u8 {
        self.drawn += 1;
        self.luck[self.drawn % self.luck.len()].wrapping_add((self.drawn * 37) as u8)
    }

    fn perform(&mut self, step: Step) {
        let revisions = self.wanted.revisions;
        let fresh = |ordinal, revision| Part {
            ordinal,
            revision,
            life: Life::Unready,
        };
        let failed = |life: Life| matches!(life, Life::Failed { .. });
        let start = |parts: &mut Vec<Part>, part: Part| {
            parts.retain(|other| other.ordinal != part.ordinal || !failed(other.life));
            assert!(
                parts.iter().all(|other| other.ordinal != part.ordinal),
                "{part:?} lives already"
            );
            parts.push(part);
        };
        let leave = |parts: &mut dyn AsMut<[Part]>, ordinal| {
            let mut parts = parts.as_mut().iter_mut();
            let part = parts.find(|part| part.ordinal == ordinal).expect("it exists");
            assert!(!failed(part.life) && part.life != Life::Leaving, "{part:?} can leave");
            part.life = Life::Leaving;
        };
        match step {
            Step::StartRedis => {
                assert!(self.observed.redis.is_none_or(|part| failed(part.life)));
                self.observed.redis = Some(fresh(0, revisions.redis));
            }
            Step::StartProxy(ordinal) => start(&mut self.observed.proxies, fresh(ordinal, revisions.proxies)),
            Step::StartContainer(ordinal) => start(&mut self.observed.containers, fresh(ordinal, revisions.containers)),
            Step::QuiesceContainer(ordinal) => leave(&mut self.observed.containers, ordinal),
            Step::DrainProxy(ordinal) => leave(&mut self.observed.proxies, ordinal),
            Step::StopRedis => leave(&mut self.observed.redis.as_mut_slice(), 0),
        }
    }

    /// Parts get on, or stay where they are; with `faults` some fail.
    fn pass(&mut self, faults: bool) {
        self.now = self.now + Duration::from_millis(100);
        let mut observed = std::mem::take(&mut self.observed);
        for parts in [&mut observed.containers, &mut observed.proxies] {
            for part in parts.iter_mut() {
                part.life = self.progress(part.life, faults);
            }
            // It ended as it was told.
            parts.retain(|part| part.life != Life::Failed { again: Instant::MAX });
        }
        observed.redis = observed.redis.map(|part| Part {
            life: self.progress(part.life, faults),
            ..part
        });
        observed.redis = observed
            .redis
            .filter(|part| part.life != Life::Failed { again: Instant::MAX });
        // Claims come sooner or later.
        observed.unowned = u32::from(self.draw() < 64);
        self.observed = observed;
    }

    fn progress(&mut self, life: Life, faults: bool) -> Life {
        let luck = self.draw();
        if faults && luck < 12 {
            return Life::Failed {
                again: self.now + Duration::from_millis(u64::from(luck) * 50),
            };
        }
        match life {
            Life::Active { .. } if faults && luck < 16 => Life::Unready,
            _ if luck < 128 => life,
            Life::Unready => Life::Joining,
            Life::Joining => Life::Active {
                since: self.now,
                replicated: luck.is_multiple_of(2),
            },
            Life::Active { since, .. } => Life::Active {
                since,
                replicated: true,
            },
            Life::Leaving => Life::Failed { again: Instant::MAX },
            Life::Failed { .. } => life,
        }
    }

    /// No planned move takes a working container away while another is not fully active, nor two parts at once.
    fn check(&self, plan: &Plan) -> Result<(), TestCaseError> {
        let is_move = |step: &&Step| matches!(step, Step::QuiesceContainer(_) | Step::DrainProxy(_) | Step::StopRedis);
        let moves: Vec<_> = plan.steps.iter().filter(is_move).collect();
        prop_assert!(moves.len() <= 1, "{moves:?} at once");
        let Observed {
            redis,
            containers,
            proxies,
            ..
        } = &self.observed;
        let mut parts = containers.iter().chain(proxies).chain(redis);
        prop_assert!(
            moves.is_empty() || parts.all(|part| part.life != Life::Leaving),
            "{moves:?} while another leaves"
        );
        let settled = |part: &Part| match part.life {
            Life::Active { since, replicated } => replicated && since + SETTLE <= self.now,
            Life::Failed { .. } => part.ordinal >= self.wanted.containers,
            _ => false,
        };
        let has_copies = |part: &Part| !matches!(part.life, Life::Active { replicated: false, .. });
        let all_settled = |except: Option<u16>| {
            let is_excepted = |part: &Part| Some(part.ordinal) == except && has_copies(part);
            let mut containers = containers.iter();
            self.observed.unowned == 0 && containers.all(|part| is_excepted(part) || settled(part))
        };
        let away_already = |mut parts: std::slice::Iter<'_, Part>, ordinal| {
            parts.any(|part| part.ordinal == ordinal && part.life == Life::Unready)
        };
        // While Redis is away the containers hold the only copy; what Redis is told itself is looked at below.
        let serves = |life| matches!(life, Life::Active { since, .. } if since + SETTLE <= self.now);
        let redis_serves = !self.wanted.redis || redis.is_some_and(|part| serves(part.life));
        let allowed = match moves.first() {
            Some(Step::QuiesceContainer(ordinal)) => {
                all_settled(Some(*ordinal)) && redis_serves || away_already(containers.iter(), *ordinal)
            }
            Some(Step::DrainProxy(ordinal)) => {
                all_settled(None) && redis_serves || away_already(proxies.iter(), *ordinal)
            }
            Some(Step::StopRedis) => all_settled(None) || away_already(redis.as_slice().iter(), 0),
            _ => true,
        };
        prop_assert!(allowed, "{moves:?} with {:?}", self.observed);
        Ok(())
    }

    /// As wanted, but for what failed and nobody wants back.
    fn is_as_wanted(&self) -> bool {
        let Wanted {
            containers,
            proxies,
            redis,
            revisions,
        } = self.wanted;
        let redis_is_new = self.observed.redis.is_some_and(|part| part.revision == revisions.redis);
        let parts_are_new = [
            (&self.observed.containers, containers, revisions.containers),
            (&self.observed.proxies, proxies, revisions.proxies),
        ]
        .iter()
        .all(|(parts, number, revision)| {
            let mut living: Vec<_> = parts
                .iter()
                .filter(|part| !matches!(part.life, Life::Failed { .. }))
                .collect();
            living.sort_by_key(|part| part.ordinal);
            living.iter().map(|part| part.ordinal).eq(0..*number)
                && living.iter().all(|part| part.revision == *revision)
        });
        parts_are_new && (redis_is_new || !redis)
    }
}

fn lives() -> impl Strategy<Value = Life> {
    prop_oneof![
        (0u64..4_000).prop_map(|ms| Life::Failed { again: at(ms) }),
        Just(Life::Unready),
        Just(Life::Joining),
        (0u64..4_000, any::<bool>()).prop_map(|(ms, replicated)| Life::Active {
            since: at(ms),
            replicated
        }),
        Just(Life::Leaving),
    ]
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = proptest::option::of((1u64..3, lives()));
    proptest::collection::vec(part, 0..6).prop_map(|parts| {
        let numbered = parts.into_iter().zip(0u16..);
        numbered
            .filter_map(|(part, ordinal)| {
                part.map(|(revision, life)| Part {
                    ordinal,
                    revision,
                    life,
                })
            })
            .collect()
    })
}

fn revisions() -> impl Strategy<Value = Revisions> {
    (1u64..3, 1u64..3, 1u64..3).prop_map(|(containers, proxies, redis)| Revisions {
        containers,
        proxies,
        redis,
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (1u16..6, 1u16..4, revisions()).prop_map(|(containers, proxies, revisions)| Wanted {
        containers,
        proxies,
        redis: true,
        revisions,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// From whatever is observed, through faults and through commands that change their mind on the way (scale, restart, apply), the cluster
    /// becomes what is wanted last; and on the way nothing is taken away that must not be.
    #[test]
    fn any_cluster_becomes_what_is_wanted_and_never_loses_a_second_container_on_purpose(
        redis in any::<bool>(),
        commands in proptest::collection::vec(wanted(), 1..4),
        present in (proptest::option::of((1u64..3, lives())), parts(), parts()),
        luck in proptest::collection::vec(any::<u8>(), 64..256),
    ) {
        let commands: Vec<_> = commands.into_iter().map(|wanted| Wanted { redis, ..wanted }).collect();
        let present_redis = present.0.filter(|_| redis).map(|(revision, life)| Part { ordinal: 0, revision, life });
        let observed = Observed { redis: present_redis, containers: present.1, proxies: present.2, unowned: 0 };
        let mut world = World { now: at(4_000), wanted: commands[0], observed, luck, drawn: 0 };
        for turn in 0..1_500 {
            world.wanted = commands[(turn / 20).min(commands.len() - 1)];
            let plan = plan(world.now, &world.wanted, &world.observed);
            world.check(&plan)?;
            if turn > 60 && plan.is_done() {
                prop_assert!(world.is_as_wanted(), "done with {:?}", world.observed);
                return Ok(());
            }
            for step in plan.steps {
                world.perform(step);
            }
            world.pass(turn < 60);
        }
        prop_assert!(false, "still {:?} with {:?}", plan(world.now, &world.wanted, &world.observed), world.observed);
    }
}
