//! TLS to Redis and its Sentinels. The CA is read anew for each connection, so that an exchanged one needs no restart.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Lost;

/// Bytes of a file of CAs, at most. All public ones together have a quarter of a megabyte.
const MAX_CA: usize = 1 << 20;

/// Who vouches for the certificates of servers.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    /// A file of certificates in PEM.
    ca: Arc<PathBuf>,
}

impl Tls {
    /// Trusts the CAs in this file.
    pub(super) fn new(ca: PathBuf) -> Self {
        Self { ca: Arc::new(ca) }
    }

    /// A stream to the server, once it has shown a certificate for `host`.
    ///
    /// # Errors
    /// What is wrong with the CA, the server or its certificate, and what to do about it.
    pub(super) async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, Lost> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| Lost(format!("{host}: {error}")))?;
        let config = self.config()?;
        let tcp = TcpStream::connect((host, port)).await;
        let tcp = tcp.map_err(|error| Lost(error.to_string()))?;
        tcp.set_nodelay(true).map_err(|error| Lost(error.to_string()))?;
        let stream = TlsConnector::from(config).connect(name, tcp).await;
        stream.map_err(|error| Lost(self.explained(&error, host)))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, Lost> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Lost(error.to_string()))?
            .with_root_certificates(self.trusted()?)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }

    fn trusted(&self) -> Result<RootCertStore, Lost> {
        let wrong = |what: String| {
            let ca = self.ca.display();
            Lost(format!(
                "{ca}: {what}; put the CA that signed the servers' certificates there, in PEM"
            ))
        };
        let mut text = Vec::new();
        File::open(&*self.ca)
            .and_then(|file| file.take(MAX_CA as u64 + 1).read_to_end(&mut text))
            .map_err(|error| wrong(error.to_string()))?;
        if text.len() > MAX_CA {
            return Err(wrong(format!("it has more than {MAX_CA} bytes")));
        }
        let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
        let mut trusted = RootCertStore::empty();
        // In a bundle there may be one of a kind that is not known here.
        let (added, _) = trusted.add_parsable_certificates(certificates.map_err(|error| wrong(error.to_string()))?);
        match added {
            0 => Err(wrong("it holds no certificate".into())),
            _ => Ok(trusted),
        }
    }

    /// Why there is no TLS with the server, and the remedy.
    fn explained(&self, error: &io::Error, host: &str) -> String {
        let ca = self.ca.display();
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(why)) => match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    format!("its certificate is signed by no CA in {ca}; put the one that signed it there")
                }
                CertificateError::NotValidForNameContext { presented, .. } => format!(
                    "its certificate is not for {host} but for {presented:?}; name the server as its certificate does, or give it one for {host}"
                ),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired; renew it, or set the clock".into()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet; set the clock".into()
                }
                other => format!("its certificate is refused: {other}"),
            },
            Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => WANTS_OURS.into(),
            Some(Error::InvalidMessage(_)) => format!("it answers, but not in TLS; {OTHER_PORT}"),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                format!("it ends the connection instead of a handshake; {OTHER_PORT}")
            }
            _ => error.to_string(),
        }
    }
}

/// What to do about a server that was spoken to in TLS and does not understand.
pub(super) const OTHER_PORT: &str = "name its port for TLS (tls-port), or write redis:// for one without";

/// What to do about a server that was spoken to without TLS and does not understand.
pub(super) const OTHER_SCHEME: &str = "if this is its port for TLS, write rediss://";

/// What to do about a server that has asked for what a container cannot show.
pub(super) const WANTS_OURS: &str =
    "it wants a certificate of whoever connects, and containers have none; set tls-auth-clients no there";

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted(text: &[u8]) -> Result<RootCertStore, Lost> {
        let file = std::env::temp_dir().join(format!("sipcluster-ca-{}-{}", std::process::id(), text.len()));
        std::fs::write(&file, text).expect("a directory for temporary files");
        let trusted = Tls::new(file.clone()).trusted();
        let _ = std::fs::remove_file(file);
        trusted
    }

    #[test]
    fn a_file_without_a_ca_is_named_with_the_remedy() {
        let garbled = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let no_certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let long = vec![b'\n'; MAX_CA + 1];
        for (text, what) in [
            (&b""[..], "no certificate"),
            (b"redis", "no certificate"),
            (no_certificate, "no certificate"),
            (garbled, "base64"),
            (&long, "more than 1048576 bytes"),
        ] {
            let Lost(message) = trusted(text).expect_err("no CA");
            assert!(message.contains(what) && message.contains("put the CA"), "{message}");
        }
        let Lost(message) = Tls::new("/nowhere/ca.crt".into()).trusted().expect_err("no file");
        assert!(message.starts_with("/nowhere/ca.crt: No such file"), "{message}");
    }
}
