//! `up --detach`: the supervisor goes on in a process of its own, and the command returns when the cluster works.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::failure::Failure;
use crate::state_dir::StateDir;

/// To whom the supervisor speaks.
#[derive(Debug)]
pub enum Audience {
    /// The terminal that started it, which stays.
    Terminal,
    /// The command that started it, which waits for one answer; later words go to the log.
    Command(Option<File>),
}

/// Which side of [`split`] this is.
pub enum Side {
    /// The command: it waits with [`await_answer`].
    Command(File),
    /// The supervisor.
    Supervisor(Audience),
}

impl Audience {
    /// Something happened.
    pub fn say(&mut self, text: &str) {
        // Nobody may listen any more.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// Whether a command waits for the cluster to work.
    pub fn waits_for_the_start(&self) -> bool {
        matches!(self, Self::Command(Some(_)))
    }

    /// The cluster works, and this is how to use it.
    pub fn works(&mut self, text: &str) {
        match self {
            Self::Terminal => self.say(text),
            Self::Command(answer) => Self::answer(answer, 0, text),
        }
    }

    /// It does not, and the supervisor ends.
    pub fn failed(&mut self, failure: &Failure) {
        if let Self::Command(answer) = self {
            Self::answer(answer, failure.code, &failure.message);
        }
    }

    fn answer(to: &mut Option<File>, code: u8, text: &str) {
        if let Some(mut to) = to.take() {
            let _ = to.write_all(&[code]).and_then(|()| to.write_all(text.as_bytes()));
        }
    }
}

/// Splits this process in two; it must have one thread only. The supervisor's side keeps the lock, leaves the terminal's session, and its
/// output goes to its log.
pub fn split(directory: &StateDir) -> Result<Side, Failure> {
    let system = |error: std::io::Error| Failure::system("--detach", error);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.log("supervisor"))
        .map_err(system)?;
    let null = File::open("/dev/null").map_err(system)?;
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors; on success both are open and nobody else's.
    let (reader, writer) = unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(system(std::io::Error::last_os_error()));
        }
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    // SAFETY: there is one thread, so the child may go on as the parent would; dup2 and setsid take no pointers.
    match unsafe { libc::fork() } {
        -1 => Err(system(std::io::Error::last_os_error())),
        0 => {
            // SAFETY: as above; the descriptors are open.
            unsafe {
                libc::setsid();
                libc::dup2(null.as_raw_fd(), 0);
                libc::dup2(log.as_raw_fd(), 1);
                libc::dup2(log.as_raw_fd(), 2);
            }
            Ok(Side::Supervisor(Audience::Command(Some(writer))))
        }
        _ => Ok(Side::Command(reader)),
    }
}

/// What the supervisor says of the start: how to use the cluster, or why there is none.
pub fn await_answer(mut from: File, directory: &StateDir) -> Result<String, Failure> {
    let mut answer = Vec::new();
    from.read_to_end(&mut answer)
        .map_err(|error| Failure::system("the supervisor", error))?;
    match answer.split_first() {
        Some((0, text)) => Ok(String::from_utf8_lossy(text).into_owned()),
        Some((code, text)) => Err(Failure {
            code: *code,
            message: String::from_utf8_lossy(text).into_owned(),
        }),
        None => Err(Failure::here(format!(
            "the supervisor ended before the cluster worked; its log is {}",
            directory.log("supervisor").display()
        ))),
    }
}
