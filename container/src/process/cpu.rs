//! How much CPU this process uses.

use std::time::{Duration, Instant};

/// Ticks of /proc are hundredths of a second, so a shorter span says little.
const SPAN: Duration = Duration::from_millis(500);

/// A sample, and what came of the last two.
#[derive(Debug, Default)]
pub struct Cpu {
    last: Option<(Instant, u64)>,
    permille: u32,
}

impl Cpu {
    /// Thousandths of one core, over the last half second or so; 0 where /proc does not tell.
    pub fn permille(&mut self) -> u32 {
        let now = Instant::now();
        match self.last {
            Some((at, _)) if now - at < SPAN => {}
            Some((at, before)) => {
                let ticks = ticks().unwrap_or(before);
                let millis = (now - at).as_millis().max(1) as u64;
                self.permille = u32::try_from((ticks.saturating_sub(before)) * 10_000 / millis).unwrap_or(u32::MAX);
                self.last = Some((now, ticks));
            }
            None => self.last = Some((now, ticks().unwrap_or_default())),
        }
        self.permille
    }
}

/// User and system time of the process, in hundredths of a second (proc(5), fields 14 and 15 of stat).
fn ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}
