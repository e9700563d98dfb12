//! The floors: the least work that any program would have to do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use axum::body::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::Result;
use crate::process::{Process, Share, cpu};
use crate::report::Times;

#[derive(Args)]
pub struct Options {
    /// Where to post; `$N` becomes the number of the post.
    #[arg(long)]
    to: String,
    /// What to post; `$N` becomes the number of the post.
    #[arg(long)]
    body: String,
    /// DynamoDB's operation.
    #[arg(long)]
    target: Option<String>,
    /// How many posts.
    #[arg(long)]
    count: usize,
    /// How many posts at the same time.
    #[arg(long, default_value_t = 1)]
    side_by_side: usize,
    /// Whether each post is signed.
    #[arg(long)]
    sign: bool,
}

/// What a loop of posts took.
#[derive(Serialize, Deserialize)]
pub struct Took {
    pub seconds: f64,
    /// Processor time of all posts, in seconds.
    pub cpu: f64,
    /// Milliseconds of a post.
    pub p50: f64,
    pub p99: f64,
}

pub async fn run(options: Options) -> Result<()> {
    let client = Client::new()?;
    let options = Arc::new(options);
    let post = async |client: &Client, options: &Options, number: usize| {
        let number = format!("{number:06}");
        let to = options.to.replace("$N", &number);
        let body = options.body.replace("$N", &number);
        let signature = if options.sign {
            Some(sign_post(&to, body.as_bytes())?)
        } else {
            None
        };
        client
            .call(&to, options.target.as_deref(), body.into(), signature)
            .await
    };
    // The connection is open before.
    post(&client, &options, options.count).await?;
    let (cpu_before, started) = (cpu("self"), Instant::now());
    let mut posts = JoinSet::new();
    for first in 0..options.side_by_side {
        let (client, options) = (client.clone(), options.clone());
        posts.spawn(async move {
            let mut times = Vec::new();
            for number in (first..options.count).step_by(options.side_by_side) {
                let started = Instant::now();
                post(&client, &options, number).await?;
                times.push(started.elapsed());
            }
            Result::Ok(times)
        });
    }
    let mut times = Times::new()?;
    for task in posts.join_all().await {
        for time in task? {
            times.add(time)?;
        }
    }
    let took = Took {
        seconds: started.elapsed().as_secs_f64(),
        cpu: cpu("self").saturating_sub(cpu_before).as_secs_f64(),
        p50: times.at(0.5),
        p99: times.at(0.99),
    };
    println!("{}", serde_json::to_string(&took)?);
    Ok(())
}

/// The headers of a signature.
type Signature = Vec<(String, String)>;

fn sign_post(to: &str, body: &[u8]) -> Result<Signature> {
    let identity = aws_credential_types::Credentials::new(
        "bench",
        "bench",
        Some("bench".repeat(160)),
        None,
        "bench",
    )
    .into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("execute-api")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()?;
    let request = SignableRequest::new("POST", to, std::iter::empty(), SignableBody::Bytes(body))?;
    let (instructions, _) = sign(request, &parameters.into())?.into_parts();
    let headers = instructions.headers();
    Ok(headers
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

/// Runs a loop of posts in a process of its own.
pub async fn measure(arguments: &[&str], trust: &Path, share: Option<&Share>) -> Result<Took> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command
        .arg("raw")
        .args(arguments)
        .env("SSL_CERT_FILE", trust);
    let mut process = Process::start(command, std::process::Stdio::piped(), share)?;
    Ok(serde_json::from_str(&process.line().await?)?)
}

/// A plain HTTP client.
#[derive(Clone)]
pub struct Client(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Client {
    pub fn new() -> Result<Self> {
        Ok(Self::with(
            HttpsConnectorBuilder::new().with_native_roots()?,
        ))
    }

    /// A client that trusts only the authorities of a file.
    pub fn trusting(authorities: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(authorities)?;
        roots.add_parsable_certificates(certificates.flatten());
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::with(
            HttpsConnectorBuilder::new().with_tls_config(config),
        ))
    }

    fn with(tls: HttpsConnectorBuilder<WantsSchemes>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = tls
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Self(client)
    }

    /// Posts a body, and reads the answer, which must be a 2xx.
    pub async fn call(
        &self,
        to: &str,
        target: Option<&str>,
        body: Bytes,
        signature: Option<Signature>,
    ) -> Result<Bytes> {
        let mut request = Request::post(to);
        if let Some(target) = target {
            request = request
                .header("x-amz-target", target)
                .header("content-type", "application/x-amz-json-1.0");
        }
        for (name, value) in signature.unwrap_or_default() {
            request = request.header(name, value);
        }
        self.send(request.body(Full::new(body))?).await
    }

    pub async fn get(&self, from: &str) -> Result<Bytes> {
        self.send(Request::get(from).body(Full::default())?).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes> {
        let response = self.0.request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into())
        }
    }
}

/// A short pause between two measurements, so that one does not pay for the
/// other's last work.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
