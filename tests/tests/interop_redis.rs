//! The cluster's own Redis of several instances, run by the script of its image: whoever fails, it ends with one master, and no data is lost.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tests::interop::instances::{INSTANCES, Instances, Passwords};
use tests::interop::process::{wait_every, wait_for};

const KEYS: usize = 100;

/// One after another: Sentinels take servers for dead that do not get a processor for a second, and a promotion beside the one that a test is about
/// is a second fault.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed has left nothing behind.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Instances with data that all have.
fn filled(name: &str) -> anyhow::Result<Instances> {
    let instances = Instances::start(name)?;
    let fill = format!("for i = 1, {KEYS} do redis.call('SET', i, i) end");
    // On a busy machine the first master may seem dead at once, and another is promoted.
    wait_for("all instances have the keys", Duration::from_secs(60), || {
        let master = instances.in_sync().ok()?;
        instances.ask(master, &["EVAL", &fill, "0"]).ok()?;
        let is_full = |ordinal| instances.keys(ordinal) == Some(KEYS);
        (0..INSTANCES).all(is_full).then_some(())
    })?;
    Ok(instances)
}

fn assert_whole(instances: &Instances) {
    for ordinal in 0..INSTANCES {
        assert_eq!(
            instances.keys(ordinal),
            Some(KEYS),
            "of {ordinal}\n{}",
            instances.logs()
        );
    }
}

/// How many replicas have a field of this value, as far as an instance's Sentinel knows.
fn replicas_with(instances: &Instances, ordinal: usize, field: [&str; 2]) -> usize {
    let replicas = instances.ask(ordinal, &["-p", "26379", "SENTINEL", "REPLICAS", "demo"]);
    let words = replicas.unwrap_or_default();
    let words: Vec<_> = words.split_whitespace().collect();
    words.windows(2).filter(|pair| *pair == field).count()
}

/// Waits until another is the master. On a busy machine it may seem dead as well, and the former one, which has followed it, be the next.
fn promoted(instances: &Instances, former: usize) -> anyhow::Result<()> {
    let another = || instances.master().ok().filter(|master| *master != former).map(drop);
    wait_for("another is promoted", Duration::from_secs(30), another).with_context(|| instances.logs())
}

/// Ends the master with its Sentinel, which both come back, and another is promoted.
fn lose_master(instances: &mut Instances) -> anyhow::Result<()> {
    let former = instances.in_sync()?;
    instances.lose_pod(former)?;
    instances.start_sentinel(former)?;
    instances.start_server(former)?;
    promoted(instances, former)?;
    instances.in_sync()?;
    assert_whole(instances);
    Ok(())
}

#[test]
fn a_master_that_comes_back_empty_follows_another_and_empties_nobody() -> anyhow::Result<()> {
    let _alone = alone();
    let mut instances = filled("redis-empty")?;
    let former = instances.in_sync()?;
    instances.kill_server(former);
    instances.start_server(former)?;
    promoted(&instances, former)?;
    let others: Vec<_> = (0..INSTANCES).filter(|ordinal| *ordinal != former).collect();
    wait_for("it follows another", Duration::from_secs(60), || {
        // One that is being filled anew says nothing for a moment.
        for (ordinal, keys) in others
            .iter()
            .filter_map(|ordinal| Some((ordinal, instances.keys(*ordinal)?)))
        {
            assert_eq!(keys, KEYS, "of {ordinal}");
        }
        instances.run(former, "ready").ok()
    })?;
    instances.in_sync()?;
    assert_whole(&instances);
    Ok(())
}

#[test]
fn a_master_that_is_lost_with_its_sentinel_comes_back_in_another_life() -> anyhow::Result<()> {
    let _alone = alone();
    let mut instances = filled("redis-pod")?;
    for _ in 0..2 {
        lose_master(&mut instances)?;
    }
    Ok(())
}

/// What one Sentinel alone has heard of is forgotten if that is lost, and another is promoted as if it had never been.
#[test]
fn a_promotion_counts_once_a_majority_of_sentinels_has_heard_of_it() -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_secs(30);
    const LATEST: u64 = 100;
    let (former, next, other) = (0, 1, 2);
    let _alone = alone();
    let mut instances = Instances::start("redis-heard")?;
    instances.in_sync()?;
    // Without servers nobody is promoted meanwhile.
    (0..INSTANCES).for_each(|ordinal| instances.kill_server(ordinal));
    instances.believe(former, former, LATEST - 1)?;
    instances.believe(next, next, LATEST)?;
    // It names the same by an earlier promotion, and would believe that of the former.
    instances.believe(other, next, LATEST - 2)?;
    for ordinal in 0..INSTANCES {
        instances.start_sentinel(ordinal)?;
    }
    let answers = |ordinal| {
        let said = instances.ask(ordinal, &["-p", "26379", "PING"]);
        said.is_ok_and(|said| said == "PONG")
    };
    wait_for("all Sentinels answer", LIMIT, || {
        (0..INSTANCES).all(answers).then_some(())
    })?;

    let address = instances.address(next);
    let missing =
        format!("1 of 3 Sentinels have heard that {address} was promoted last (epoch {LATEST}); 2 are needed");
    for ordinal in 0..INSTANCES {
        // On a busy machine a Sentinel may not answer in time.
        wait_for("it says what is missing", LIMIT, || {
            match instances.master_for(ordinal) {
                Ok(named) => panic!("{named} is named"),
                Err(refused) => refused.to_string().contains(&missing).then_some(()),
            }
        })?;
    }
    instances.start_server(other)?;
    let follows = |said: &str| said.contains("following");
    let said = wait_for("the server says what it does", LIMIT, || {
        let said = instances.server(other);
        (follows(&said) || said.contains(&missing)).then_some(said)
    })?;
    assert!(!follows(&said), "{said}");

    // The first one that is asked names another by the same promotion, as one does whose own promotion another has overtaken, for as long as the master
    // that it promoted is down.
    instances.believe(former, former, LATEST)?;
    instances.start_sentinel(former)?;
    instances.believe(other, next, LATEST)?;
    instances.start_sentinel(other)?;
    let named = wait_for("a master is named", LIMIT, || instances.master().ok())?;
    assert_eq!(named, next);
    let said = wait_for("the server follows", LIMIT, || {
        Some(instances.server(other)).filter(|said| follows(said))
    })?;
    assert!(said.contains(&format!("following {address}\n")), "{said}");
    Ok(())
}

/// How soon the next master takes writes, should nothing else befall it: it takes none before a replica follows it. A Sentinel that has failed to lead one
/// away looks at it again ten seconds later, and it often fails where that one has just come back, as in each of these rounds.
#[test]
fn a_master_that_is_told_to_leave_has_another_promoted_first_that_soon_takes_writes() -> anyhow::Result<()> {
    let _alone = alone();
    let mut instances = filled("redis-leave")?;
    for _ in 0..8 {
        let former = instances.in_sync()?;
        instances.run(former, "leave")?;
        // It leaves once one Sentinel has seen it, and nobody is named before a majority has heard of it.
        let next = wait_for("a master is named", Duration::from_secs(30), || instances.master().ok())?;
        assert_ne!(next, former);
        let writes = || (instances.ask(next, &["SET", "1", "1"]).ok()? == "OK").then_some(());
        wait_for("the next master writes", Duration::from_secs(8), writes).with_context(|| instances.logs())?;
        instances.lose_pod(former)?;
        instances.start_server(former)?;
        instances.start_sentinel(former)?;
    }
    instances.in_sync()?;
    assert_whole(&instances);
    Ok(())
}

/// Nobody can be promoted here. Its pod ends all the same, in its grace, but until then those who write need not wait.
#[test]
fn while_nobody_promotes_another_a_master_that_is_to_leave_goes_on() -> anyhow::Result<()> {
    let _alone = alone();
    let instances = filled("redis-nobody")?;
    let master = instances.in_sync()?;
    for ordinal in (0..INSTANCES).filter(|ordinal| *ordinal != master) {
        instances.ask(ordinal, &["CONFIG", "SET", "replica-priority", "0"])?;
    }
    let are_known = || {
        let knows = |ordinal| replicas_with(&instances, ordinal, ["slave-priority", "0"]) == INSTANCES - 1;
        (0..INSTANCES).all(knows).then_some(())
    };
    wait_for(
        "all Sentinels know that nobody is to be promoted",
        Duration::from_secs(30),
        are_known,
    )?;
    let (mut writes, mut worst) = (0, Duration::ZERO);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let leaves = scope.spawn(|| instances.run(master, "leave"));
        while !leaves.is_finished() {
            let asked = Instant::now();
            writes += u32::from(instances.ask(master, &["SET", "1", "1"])? == "OK");
            worst = worst.max(asked.elapsed());
        }
        leaves.join().expect("it does not panic").map(drop)
    })?;
    assert!(
        writes >= 8 && worst < Duration::from_secs(5),
        "{writes} writes, the latest answer after {worst:?}"
    );
    assert_eq!(instances.in_sync()?, master);
    assert_whole(&instances);
    Ok(())
}

/// It goes on as a master for some seconds until a Sentinel tells it otherwise; a lost node that comes back ends its pods in that time.
#[test]
fn a_former_master_that_leaves_when_it_comes_back_takes_nobody_elses_place() -> anyhow::Result<()> {
    let _alone = alone();
    let instances = filled("redis-former")?;
    let former = instances.in_sync()?;
    let other = (former + 1) % INSTANCES;
    instances.cut(former)?;
    let next = wait_for("another is promoted", Duration::from_secs(30), || {
        instances.master_for(other).ok().filter(|master| *master != former)
    })?;
    // Or nobody could be promoted in its place.
    wait_for(
        "a replica of it is known to be in sync",
        Duration::from_secs(30),
        || (replicas_with(&instances, next, ["master-link-status", "ok"]) > 0).then_some(()),
    )?;
    // Nobody else would ever have it.
    let written = || instances.ask(former, &["SET", "1", "1"]).ok();
    wait_for("the former one takes no write", Duration::from_secs(30), || {
        written().filter(|said| said.contains("NOREPLICAS")).map(drop)
    })?;
    instances.mend()?;
    let quorum = || instances.ask(next, &["-p", "26379", "SENTINEL", "CKQUORUM", "demo"]);
    wait_for("all Sentinels hear one another", Duration::from_secs(30), || {
        quorum().ok().filter(|said| said.starts_with("OK 3")).map(drop)
    })?;
    // For some seconds more it takes itself for one; on a busy machine these may be over.
    instances.run(former, "leave")?;
    for ordinal in 0..INSTANCES {
        let said = instances.sentinel(ordinal).1;
        assert!(!said.contains("user requested FAILOVER"), "{said}");
    }
    instances.in_sync()?;
    assert_whole(&instances);
    Ok(())
}

#[test]
fn if_all_end_at_once_they_begin_anew_with_one_master() -> anyhow::Result<()> {
    let _alone = alone();
    let mut instances = filled("redis-all")?;
    (0..INSTANCES).for_each(|ordinal| instances.kill_server(ordinal));
    for ordinal in 0..INSTANCES {
        instances.start_server(ordinal)?;
    }
    let master = instances.in_sync()?;
    assert_eq!(instances.ask(master, &["SET", "1", "1"])?, "OK");
    for ordinal in 0..INSTANCES {
        instances.lose_pod(ordinal)?;
    }
    for ordinal in 0..INSTANCES {
        instances.start_server(ordinal)?;
        instances.start_sentinel(ordinal)?;
    }
    instances.in_sync()?;
    Ok(())
}

#[test]
fn a_password_is_rotated_in_three_rollouts_and_nobody_is_refused() -> anyhow::Result<()> {
    let _alone = alone();
    let mut instances = filled("redis-password")?;
    let first = "secret";
    let rollouts = [("secret", "two", true), ("two", "secret", true), ("two", "", false)];
    for (presents, others, accepts_first) in rollouts {
        for ordinal in (0..INSTANCES).rev() {
            instances.replace(ordinal, Passwords { presents, others })?;
            instances.in_sync()?;
            assert_whole(&instances);
            for ordinal in 0..INSTANCES {
                assert_eq!(instances.refused(ordinal)?, "", "of {ordinal}\n{}", instances.logs());
            }
        }
        for ordinal in 0..INSTANCES {
            assert!(
                instances.accepts(ordinal, "two")?,
                "{ordinal} does not accept the new one"
            );
            assert_eq!(
                instances.accepts(ordinal, first)?,
                accepts_first,
                "{ordinal} and the first"
            );
        }
    }
    for ordinal in 0..INSTANCES {
        let refused = instances.refused(ordinal)?;
        assert_ne!(refused, "", "{ordinal} notes what it has just refused");
    }
    // Sentinels open one another too.
    lose_master(&mut instances)
}

/// Linux goes on reporting the refusal for a connection that is made at the next attempt.
#[test]
fn a_sentinel_does_not_look_for_ever_at_a_connection_that_was_refused_first() -> anyhow::Result<()> {
    const TURN: Duration = Duration::from_secs(2);
    let _alone = alone();
    let mut instances = filled("redis-refused")?;
    let master = instances.in_sync()?;
    let replica = (master + 1) % INSTANCES;
    let has_noticed = |instances: &Instances| {
        let said = |ordinal| instances.sentinel(ordinal).1.contains("make its connections anew");
        (0..INSTANCES).any(said).then_some(())
    };
    // The error stays if it is there before the call that connects is over, which is a matter of who gets a processor when.
    for _ in 0..10 {
        instances.refuse(replica)?;
        instances.kill_server(replica);
        instances.start_server(replica)?;
        wait_for("it follows the master", Duration::from_secs(30), || {
            instances.run(replica, "ready").ok()
        })?;
        instances.accept(replica)?;
        let noticed = wait_for("one has noticed", Duration::from_secs(12), || has_noticed(&instances));
        if noticed.is_ok() {
            break;
        }
    }
    anyhow::ensure!(
        has_noticed(&instances).is_some(),
        "no Sentinel was ever busy, or this kernel does not report such an error for ever\n{}",
        instances.logs()
    );
    let mut before = [Duration::ZERO; INSTANCES];
    wait_every(TURN, "all Sentinels are at rest", Duration::from_secs(60), || {
        let used = std::array::from_fn(|ordinal| instances.sentinel(ordinal).0);
        let are_calm = used.iter().zip(before).all(|(used, before)| *used < before + TURN / 10);
        before = used;
        are_calm.then_some(())
    })
    .with_context(|| instances.logs())?;
    instances.in_sync()?;
    assert_whole(&instances);
    Ok(())
}
