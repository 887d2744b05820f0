//! What to do with a cluster that works.

use crds::Transport;
use ucf::plan::Who;

use super::{Part, Supervisor};
use crate::detach::Audience;

impl Supervisor<'_> {
    /// Where to call, where the state is shown, what to try next.
    pub(super) fn welcome(&mut self) -> String {
        let ends_by_command = matches!(self.journal.audience(), Audience::Command(_));
        let spec = &self.desired.manifest.spec;
        let address = spec.advertised();
        let victim = self
            .parts
            .get(&Who::Container(0))
            .and_then(Part::pid)
            .unwrap_or_default();
        let (status, down, scale) = (
            self.directory.command("status --watch"),
            self.directory.command("down"),
            self.directory.command(&format!("scale {}", spec.replicas + 1)),
        );
        let more = match std::env::current_exe() {
            Ok(path) => path
                .parent()
                .map(|directory| directory.display().to_string())
                .unwrap_or_default(),
            Err(_) => String::new(),
        };
        format!(
            "\n{name} works: {containers} containers behind {proxies} proxies at {address}\n\n  \
             call         sip:anyone@{address} ({transports})\n  \
             state        {more}/{status}\n  \
             logs         {logs}\n\n\
             try next\n  \
             a call       {call}\n  \
             a loss       kill -9 {victim}    (a container; its calls go on)\n  \
             growth       {more}/{scale}\n  \
             the end      {end}",
            name = self.name(),
            containers = spec.replicas,
            proxies = spec.proxies.replicas,
            transports = in_words(&spec.dispatcher.transports),
            logs = self.directory.file("log").display(),
            call = sipp(&spec.dispatcher.transports, &address.to_string()),
            end = if ends_by_command {
                format!("{more}/{down}")
            } else {
                "Ctrl-C".into()
            },
        )
    }
}

fn in_words(transports: &[Transport]) -> String {
    let words = transports.iter().map(|transport| match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    });
    words.collect::<Vec<_>>().join(", ")
}

/// SIPp calls over UDP unless it is told otherwise.
fn sipp(transports: &[Transport], address: &str) -> String {
    let option = if transports.contains(&Transport::Udp) {
        ""
    } else {
        " -t t1"
    };
    format!("sipp -sn uac {address}{option} -m 10 -r 2 -d 20000")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_are_those_of_the_manifest() {
        assert_eq!(in_words(&[Transport::Udp, Transport::Tcp]), "UDP, TCP");
        assert_eq!(in_words(&[Transport::Tcp]), "TCP");
        assert_eq!(
            sipp(&[Transport::Tcp], "h:5060"),
            "sipp -sn uac h:5060 -t t1 -m 10 -r 2 -d 20000"
        );
    }
}
