//! Serving a router in a process of its own, plain or behind TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use clap::Args;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::Result;

/// How the functions reach an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Transport {
    Plain,
    Http1,
    Http2,
}

#[derive(Args, Clone)]
pub struct Endpoint {
    #[arg(long)]
    pub transport: Transport,
    /// Folder with the certificates of [`certificates`].
    #[arg(long)]
    pub certificates: PathBuf,
    /// Milliseconds that each call takes longer.
    #[arg(long, default_value_t = 0)]
    pub delay: u64,
}

/// The authority that the functions trust.
pub fn authority(certificates: &Path) -> PathBuf {
    certificates.join("authority.pem")
}

/// Makes a certificate for this machine, and the authority that signs it.
pub fn certificates(folder: &Path) -> Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority_certificate = parameters.self_signed(&key)?;
    let issuer = Issuer::new(parameters, key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    // Beside the system's authorities, which a function on Lambda reads too.
    let mut trusted =
        std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    trusted.push_str(&authority_certificate.pem());
    std::fs::write(authority(folder), trusted)?;
    std::fs::write(folder.join("certificate.pem"), certificate.pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
}

/// Serves until the process ends. Prints the URL first.
pub async fn serve(router: Router, options: &Endpoint) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let tls = match options.transport {
        Transport::Plain => None,
        transport => Some(acceptor(transport, &options.certificates)?),
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    // A name, as on AWS.
    println!("{scheme}://localhost:{port}");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            let service = TowerToHyperService::new(router);
            let builder = Builder::new(TokioExecutor::new());
            // A client that goes away is no error.
            let _ = match tls {
                None => {
                    builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                }
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => {
                        builder
                            .serve_connection(TokioIo::new(stream), service)
                            .await
                    }
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

fn acceptor(transport: Transport, certificates: &Path) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(certificates.join("certificate.pem"))?;
    let key = PrivateKeyDer::from_pem_file(certificates.join("key.pem"))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = match transport {
        Transport::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        _ => vec![b"http/1.1".to_vec()],
    };
    Ok(TlsAcceptor::from(Arc::new(config)))
}
