//! A kubelet in four words, for the end-to-end tests: what it asks of containerd's CRI about one pod sandbox.
//!
//! `cri-client SOCKET run NAME [HOST-PORT:CONTAINER-PORT | ANNOTATION=VALUE]... | ip ID | stop ID | remove ID | pod-cidr CIDRS`

use anyhow::{Context, Result, bail};
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    LinuxPodSandboxConfig, NetworkConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest,
    PortMapping, RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeConfig, StopPodSandboxRequest,
    UpdateRuntimeConfigRequest,
};
use std::io::Write;
use tonic::transport::Endpoint;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ([socket, verb, what], words) = args.split_first_chunk().context(
        "usage: cri-client SOCKET run NAME [HOST-PORT:CONTAINER-PORT | ANNOTATION=VALUE]... | ip ID | stop ID | remove ID | pod-cidr CIDRS",
    )?;
    let channel =
        Endpoint::try_from(format!("unix://{socket}"))?.connect().await.context("connect to the CRI")?;
    let mut cri = RuntimeServiceClient::new(channel);
    let pod_sandbox_id = what.clone();
    let answer = match verb.as_str() {
        "run" => cri.run_pod_sandbox(run_request(what, words)?).await?.into_inner().pod_sandbox_id,
        "ip" => {
            let request = PodSandboxStatusRequest { pod_sandbox_id, verbose: false };
            let status = cri.pod_sandbox_status(request).await?.into_inner().status.context("no status")?;
            status.network.context("the sandbox has no network")?.ip
        }
        "stop" => {
            cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await.map(|_| String::new())?
        }
        "remove" => {
            cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.map(|_| String::new())?
        }
        // As kubelet tells the runtime the node's ranges.
        "pod-cidr" => {
            let network_config = Some(NetworkConfig { pod_cidr: what.clone() });
            let runtime_config = Some(RuntimeConfig { network_config });
            let request = UpdateRuntimeConfigRequest { runtime_config };
            cri.update_runtime_config(request).await.map(|_| String::new())?
        }
        other => bail!("unknown verb {other:?}"),
    };
    Ok(writeln!(std::io::stdout(), "{answer}")?)
}

fn run_request(name: &str, words: &[String]) -> Result<RunPodSandboxRequest> {
    let (annotations, ports): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.contains('='));
    let annotation =
        |text: &String| text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mapping = |text: &String| {
        let (host, container) = text.split_once(':').context("a port is HOST-PORT:CONTAINER-PORT")?;
        Ok(PortMapping {
            host_port: host.parse()?,
            container_port: container.parse()?,
            ..PortMapping::default()
        })
    };
    let metadata = PodSandboxMetadata {
        name: name.to_owned(),
        uid: format!("{name}-uid"),
        namespace: "default".to_owned(),
        attempt: 0,
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.to_owned(),
        log_directory: "/tmp".to_owned(),
        linux: Some(LinuxPodSandboxConfig::default()),
        port_mappings: ports.into_iter().map(mapping).collect::<Result<_>>()?,
        annotations: annotations.into_iter().filter_map(annotation).collect(),
        ..PodSandboxConfig::default()
    };
    Ok(RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() })
}
