//! The benchmarks: `make bench` runs everything of one machine in one session and writes `docs/bench.md`.
//!
//! - [`load`] is the load generator: caller and callee of six-message calls in one thread, cheaper than any proxy it drives;
//! - [`forward`] is the floor: a UDP forwarder that reads nothing;
//! - [`yardstick`] runs forwarder, Kamailio and our proxy one after another on the same CPU, with the load on the other;
//! - [`calls`], [`failover`], [`planned`] and [`unequal`] measure a whole cluster;
//! - [`profile`] shows what the time goes to;
//! - [`report`] puts the figures beside their targets.

pub mod calls;
pub mod failover;
pub mod forward;
pub mod load;
pub mod machine;
pub mod planned;
pub mod profile;
pub mod redis;
pub mod report;
pub mod udp;
pub mod unequal;
pub mod yardstick;

use anyhow::{Context, bail};

use crate::interop::process::{scratch, source_root};
use calls::Alone;
use failover::Fault;
use report::{Row, short};
use yardstick::{Effort, Measured};

const USAGE: &str = "bench [yardstick] [calls] [order] [failover] [planned] [unequal] [overload] [mass]: all of them, and docs/bench.md, if none is named";

type Section = (String, Vec<Row>, String);

/// The command line: `forward LISTEN CALLER CALLEE` is the forwarder that the rest starts; else what is named is measured.
pub fn main(arguments: &[String]) -> anyhow::Result<()> {
    if let [what, addresses @ ..] = arguments
        && what == "forward"
    {
        let parsed: Result<Vec<_>, _> = addresses.iter().map(|address| address.parse()).collect();
        let [listen, caller, callee] = parsed?[..] else {
            bail!("forward LISTEN CALLER CALLEE")
        };
        return forward::run(listen, caller, callee).context("forwarder");
    }
    let known = [
        "yardstick",
        "calls",
        "order",
        "failover",
        "planned",
        "unequal",
        "overload",
        "mass",
    ];
    if let Some(unknown) = arguments.iter().find(|argument| !known.contains(&argument.as_str())) {
        bail!("{unknown}? {USAGE}");
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let effort = Effort {
        calls: from_environment("CALLS", 15_000),
        trials: from_environment("TRIALS", 5) as usize,
        window: 64,
    };
    let mut sections = Vec::new();
    let mut stateful = f64::NAN;
    let mut measure = |part: &str, title: &str, section: &mut dyn FnMut() -> anyhow::Result<Section>| {
        if wanted(part) {
            // What cannot be measured is said, and the rest is measured all the same.
            sections.push(section().unwrap_or_else(|error| unmeasured(title, &error)));
        }
    };
    measure("yardstick", "A call through the proxy", &mut || {
        proxy_section(effort, &mut stateful)
    });
    measure("calls", "A call in the cluster", &mut || {
        calls_section(effort, stateful)
    });
    measure("order", "Order", &mut || order_section(effort));
    measure("failover", "Failover", &mut failover_section);
    measure("planned", "Planned", &mut planned_section);
    measure("unequal", "Unequal containers", &mut unequal_section);
    measure("overload", "Too many calls", &mut overload_section);
    measure("mass", "Many dialogs", &mut mass_section);
    let text = report::page(&machine::description(), &versions(), &sections);
    println!("{text}");
    if arguments.is_empty() {
        std::fs::write(source_root().join("docs/bench.md"), text)?;
    }
    Ok(())
}

fn unmeasured(title: &str, error: &anyhow::Error) -> Section {
    eprintln!("{title}: {error:?}");
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    (title.into(), vec![Row::plain("not measured", why)], String::new())
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn versions() -> Vec<String> {
    let programs = [("kamailio", "-v"), ("redis-server", "--version")];
    programs
        .iter()
        .map(|(program, ask)| machine::version(program, ask).unwrap_or_else(|| format!("{program}: not installed")))
        .collect()
}

/// CPU per call, calls a second, and what failed.
fn comparison(name: &str, measured: &Measured, floor: f64) -> Row {
    let (cpu, rate) = (measured.cpu(0), measured.median(|trial| trial.outcome.rate()));
    let setup = measured.median(|trial| f64::from(trial.outcome.setup_at(0.5)));
    let failed = measured.failed();
    let times = short(cpu / floor);
    Row::plain(
        name,
        format!(
            "{} us CPU, {times} x the forwarder; {rate:.0} calls/s, set-up {setup:.0} us, {failed} failed",
            short(cpu)
        ),
    )
}

fn profile_rows(whose: &str, symbols: &[String]) -> Vec<Row> {
    if symbols.is_empty() {
        return Vec::new();
    }
    vec![Row::plain(
        format!("where the time of {whose} goes (perf)"),
        symbols.join("<br>"),
    )]
}

fn proxy_section(effort: Effort, stateful: &mut f64) -> anyhow::Result<Section> {
    let files = scratch("bench")?;
    let floor = yardstick::forwarder(&files, effort)?;
    let mut rows = vec![comparison("bare UDP forwarder", &floor, floor.cpu(0))];
    let stateless = yardstick::kamailio(&files, "stateless.cfg", effort)?;
    let with_state = yardstick::kamailio(&files, "stateful.cfg", effort)?;
    for (name, measured) in [("Kamailio, stateless", &stateless), ("Kamailio, stateful", &with_state)] {
        rows.extend(
            measured
                .as_ref()
                .map(|measured| comparison(name, measured, floor.cpu(0))),
        );
    }
    *stateful = with_state.map_or(f64::NAN, |measured| measured.cpu(0));
    let ours = yardstick::ours(&files, effort)?;
    rows.push(comparison("sipcluster-proxy", &ours, floor.cpu(0)));
    if let Some(stateless) = stateless {
        rows.push(Row::at_most(
            "sipcluster-proxy / stateless Kamailio",
            ours.cpu(0) / stateless.cpu(0),
            0.40,
            "",
        ));
    }
    rows.push(Row::at_most(
        "sipcluster-proxy / forwarder",
        ours.cpu(0) / floor.cpu(0),
        2.0,
        "",
    ));
    rows.extend(profile_rows("sipcluster-proxy", &ours.profile));
    let note = format!(
        "Six-message calls (INVITE, 180, 200, ACK, BYE, 200) over UDP at saturation: each proxy alone on CPU 1 with one worker, the load on CPU 0 \
         with {} calls in progress, {} calls, median of {}. Behind sipcluster-proxy a stand-in answers on the inner connections as a container \
         does, but at once.",
        effort.window, effort.calls, effort.trials
    );
    Ok(("A call through the proxy".into(), rows, note))
}

fn calls_section(effort: Effort, stateful: f64) -> anyhow::Result<Section> {
    let containers = calls::costs(Alone::Containers, effort)?;
    let cpu = |group| containers.measured.cpu(group);
    let mut rows = Vec::new();
    let what = "three containers together, CPU per call";
    rows.push(Row::plain(what, format!("{} us", short(cpu(calls::CONTAINERS)))));
    if !stateful.is_nan() {
        rows.push(Row::at_most(
            format!("{what} / stateful Kamailio's without replication"),
            cpu(calls::CONTAINERS) / stateful,
            0.6,
            "",
        ));
    }
    rows.push(Row::at_most("Redis, CPU per call", cpu(calls::REDIS), 8.0, "us"));
    rows.push(Row::at_most(
        "Redis, fenced writes of a partition per call",
        containers.writes,
        2.0,
        "",
    ));
    rows.push(Row::plain(
        "Redis, transactions and scripts per call (one carries a turn's writes)",
        short(containers.turns),
    ));
    let rate = containers.measured.median(|trial| trial.outcome.rate());
    let setup = containers
        .measured
        .median(|trial| f64::from(trial.outcome.setup_at(0.5)));
    let failed = containers.measured.failed();
    rows.push(Row::plain(
        "calls",
        format!("{rate:.0}/s, set-up {setup:.0} us, {failed} failed"),
    ));
    rows.extend(profile_rows("a container", &containers.measured.profile));
    rows.extend(profile_rows("Redis", &containers.redis));
    let proxy = calls::costs(Alone::Proxy, effort)?;
    let rate = proxy.measured.median(|trial| trial.outcome.rate());
    rows.push(Row::plain(
        "proxy, CPU per call, with real containers (which have too little CPU to saturate it)",
        format!("{} us at {rate:.0} calls/s", short(proxy.measured.cpu(calls::PROXY))),
    ));
    let note = "Proxy (one worker), three containers (one worker each, `answer`, acknowledged replication) and redis-server; the containers \
                alone on CPU 1, all else on CPU 0.";
    Ok(("A call in the cluster".into(), rows, note.into()))
}

fn order_section(effort: Effort) -> anyhow::Result<Section> {
    let outcome = calls::order(effort)?;
    let rows = vec![
        Row::at_most(
            "messages that overtook another of their call",
            outcome.reordered as f64,
            0.0,
            "",
        ),
        Row::plain(
            "calls",
            format!(
                "{} done, {} lost, {} refused, {:.0}/s",
                outcome.done,
                outcome.lost,
                outcome.refused,
                outcome.rate()
            ),
        ),
    ];
    let note = "A proxy with four workers; ACK, three OPTIONS and BYE of each call leave the caller in one go. Whatever overtakes shows as a 500 \
                or 481, or as a 180 after its 200.";
    Ok(("Order".into(), rows, note.into()))
}

fn failover_section() -> anyhow::Result<Section> {
    let rounds = from_environment("ROUNDS", 9) as usize;
    let crash = failover::fault_to_answer(Fault::Crash, rounds)?;
    let freeze = failover::fault_to_answer(Fault::Freeze, rounds)?;
    let cut = failover::cut_to_answer(rounds)?;
    let rows = vec![
        Row::at_most("kill -9 to the first answer, median", millis(crash.median), 100.0, "ms"),
        Row::at_most("kill -9 to the first answer, worst", millis(crash.worst), 300.0, "ms"),
        Row::at_most("SIGSTOP to the first answer, worst", millis(freeze.worst), 1500.0, "ms"),
        Row::at_most("cut off to the first answer, worst", millis(cut.worst), 1500.0, "ms"),
        Row::plain(
            "SIGSTOP, and cut off, to the first answer, median",
            format!("{} ms, {} ms", short(millis(freeze.median)), short(millis(cut.median))),
        ),
        Row::plain(
            "dialogs of killed, of frozen and of cut off containers that were asked",
            format!("{}, {}, {}", crash.count, freeze.count, cut.count),
        ),
    ];
    let note = "Two proxies, three containers, 900 dialogs; a container is killed, frozen, or cut off (all packets from it and to it are dropped), and every \
                dialog is asked (OPTIONS) at once.";
    Ok(("Failover".into(), rows, note.into()))
}

fn millis(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn planned_section() -> anyhow::Result<Section> {
    let total = from_environment("PLANNED_DIALOGS", 10_000);
    let rolling = planned::rolling_restart(total)?;
    let hand_over = planned::hand_over(total)?;
    let later = millis(hand_over.answers.worst) - millis(hand_over.at_rest.worst);
    let what = format!("rolling restart of three containers with {} dialogs", rolling.dialogs);
    let rows = vec![
        Row::at_most(what, rolling.took.as_secs_f64(), 15.0, "s"),
        Row::plain("answers meanwhile", rolling.answers.to_string()),
        Row::at_most(
            format!(
                "a container with {} dialogs leaves: the latest answer, later than at rest by",
                hand_over.dialogs
            ),
            later.max(0.0),
            50.0,
            "ms",
        ),
        Row::plain("it has left after", format!("{:.2} s", hand_over.took.as_secs_f64())),
        Row::plain("answers meanwhile", hand_over.answers.to_string()),
        Row::plain(
            "answers at rest, for three seconds before",
            hand_over.at_rest.to_string(),
        ),
    ];
    let note = "`sipcluster restart containers`, and SIGTERM; 1,000 of the dialogs are asked (OPTIONS) all the time, 1,000 requests a second.";
    Ok(("Planned".into(), rows, note.into()))
}

fn unequal_section() -> anyhow::Result<Section> {
    let measured = unequal::unequal()?;
    let (chosen, in_turn) = (measured.least_loaded, measured.in_turn);
    let rows = vec![
        Row::at_least("least-loaded routing / taking turns", chosen / in_turn, 1.4, ""),
        Row::plain("with least-loaded routing", format!("{chosen:.0} calls/s")),
        Row::plain("with each container taking its turn", format!("{in_turn:.0} calls/s")),
    ];
    let note = format!(
        "Four containers with one worker, which each call keeps for {} ms, in one of them for twice as long. The highest rate of calls (INVITE, ACK, \
         OPTIONS, BYE), offered for four seconds, at which none is refused and 95 of 100 are set up within {} ms. To take turns, calls name \
         partitions of each container in turn.",
        unequal::BUSY.as_millis(),
        unequal::SET_UP.as_millis()
    );
    Ok(("Unequal containers".into(), rows, note))
}

fn overload_section() -> anyhow::Result<Section> {
    let measured = unequal::overload()?;
    let outcome = &measured.outcome;
    let answered = outcome.setup.len();
    let rows = vec![
        Row::at_least(
            "goodput at twice the capacity / the most before",
            outcome.rate() / measured.peak,
            0.95,
            "",
        ),
        Row::at_most(
            "calls that were begun, and had an OPTIONS or BYE unanswered or were not answered themselves",
            outcome.lost as f64,
            0.0,
            "",
        ),
        Row::plain("the most before", format!("{:.0} calls/s", measured.peak)),
        Row::plain(
            "offered, and done",
            format!(
                "{} calls/s, {:.0} calls/s; {} of {} refused, set-up of the {answered} that were answered {:.0} ms, of 95 of 100 {:.0} ms",
                measured.offered,
                outcome.rate(),
                outcome.refused,
                outcome.done + outcome.lost + outcome.refused,
                f64::from(outcome.setup_at(0.5)) / 1e3,
                f64::from(outcome.setup_at(0.95)) / 1e3
            ),
        ),
        Row::at_most(
            "in-dialog requests that were answered otherwise than by 200",
            outcome.reordered as f64,
            0.0,
            "",
        ),
    ];
    let note = format!(
        "Four containers with one worker, which each call keeps for {} ms, and two proxies; for ten seconds, after four of nearly the same. Nobody repeats a \
         request, and nobody waits because he was refused.",
        unequal::BUSY.as_millis()
    );
    Ok(("Too many calls".into(), rows, note))
}

fn mass_section() -> anyhow::Result<Section> {
    let mass = failover::mass(from_environment("DIALOGS", 300_000), 256)?;
    let planned = &mass.hand_over;
    let mut rows = vec![
        Row::at_most(
            format!(
                "{} dialogs claimed, loaded and answering, from the kill to the last sampled answer",
                mass.lost
            ),
            mass.answers.worst.as_secs_f64(),
            0.5,
            "s",
        ),
        Row::at_most(
            "memory per confirmed dialog, container, once its transactions have ended",
            mass.container_bytes,
            1228.8,
            "bytes",
        ),
        Row::plain(
            "the same while the transactions of the last 32 s are kept",
            short(mass.container_bytes_filling) + " bytes",
        ),
        Row::at_most("memory per confirmed dialog, Redis", mass.redis_bytes, 900.0, "bytes"),
        Row::at_most(
            format!("{} dialogs handed over, until the container has left", planned.dialogs),
            planned.took.as_secs_f64(),
            3.0,
            "s",
        ),
        Row::at_most(
            "the latest answer meanwhile, later than at rest by",
            millis(planned.answers.worst.saturating_sub(planned.at_rest.worst)),
            50.0,
            "ms",
        ),
        Row::plain("answers meanwhile", planned.answers.to_string()),
        Row::plain("answers at rest", planned.at_rest.to_string()),
    ];
    rows.extend(mass.owned.map(|owned| {
        let what = "from the kill until the survivors say that they own everything (asked every few ms)";
        Row::plain(what, format!("{:.2} s", owned.as_secs_f64()))
    }));
    rows.push(Row::plain(
        "answers of the sampled dialogs after the kill",
        mass.answers.to_string(),
    ));
    rows.extend(mass.logged.into_iter().map(|line| Row::plain("a survivor's log", line)));
    rows.extend(profile_rows("the survivors in the takeover", &mass.profile));
    let note = format!(
        "{} dialogs in three containers. One is told to leave (SIGTERM) and hands over, and is started again; then one is killed and the two others \
         take over: 3,000 dialogs are asked (OPTIONS) at once then, and 1,000 of them all the time, 1,000 requests a second, during the hand-over and for three \
         seconds before.",
        mass.dialogs
    );
    Ok(("Many dialogs".into(), rows, note))
}
