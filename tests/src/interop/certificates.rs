//! Certificates of a test's own, made by openssl when it runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A CA, with its files in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    files: PathBuf,
}

/// A certificate in PEM, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's file.
    pub key: PathBuf,
    /// The certificate of the CA that signed it.
    pub authority: PathBuf,
}

impl Authority {
    /// Makes one, with its files under `files`.
    pub fn new(files: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(files)?;
        let authority = Self {
            files: files.to_owned(),
        };
        let own = authority.named("ca");
        authority.make("ca", "basicConstraints = critical, CA:TRUE", &own, &[])?;
        Ok(authority)
    }

    /// What has to be trusted.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.named("ca").certificate
    }

    /// Makes a certificate for whoever is at this address.
    pub fn issue(&self, address: IpAddr) -> anyhow::Result<Certificate> {
        let (own, issued) = (self.named("ca"), self.named(&address.to_string()));
        let extensions = format!("basicConstraints = critical, CA:FALSE\nsubjectAltName = IP:{address}");
        let signed_by = [Path::new("-CA"), &own.certificate, Path::new("-CAkey"), &own.key];
        self.make("server", &extensions, &issued, &signed_by)?;
        Ok(issued)
    }

    fn named(&self, name: &str) -> Certificate {
        Certificate {
            certificate: self.files.join(format!("{name}.crt")),
            key: self.files.join(format!("{name}.key")),
            authority: self.files.join("ca.crt"),
        }
    }

    fn make(&self, subject: &str, extensions: &str, into: &Certificate, signed_by: &[&Path]) -> anyhow::Result<()> {
        let settings = self.files.join(format!("{subject}.conf"));
        let text = format!(
            "[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = extensions\n\
             [subject]\nCN = {subject}\n[extensions]\n{extensions}\n"
        );
        std::fs::write(&settings, text)?;
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ]);
        command.args(["-nodes", "-days", "2"]).arg("-config").arg(settings);
        command.arg("-out").arg(&into.certificate).arg("-keyout").arg(&into.key);
        let output = command.args(signed_by).output().context("openssl is installed")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
