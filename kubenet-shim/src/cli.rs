//! The command line: the plugin host's words, which are an exec plugin's too.

use crate::host::pod::{Pod, PodStatus};
use crate::host::{self, NetworkPlugin, exec_mark};
use crate::kubenet::state;
use crate::settings::{Options, Settings};
use crate::{conflist, doctor, reconcile};
use clap::{Parser, Subcommand};
use cni_common::disk::PassingLock;
use cni_common::plugin::{Plugin, about_text};
use cni_common::spec::{Coded, ContainerId, Error, Result};
use cni_common::stop;
use serde_json::Value;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Kubelet's network-plugin layer: noop, exec, cni and kubenet. Also a CNI plugin, type "kubenet-shim".
#[derive(Parser)]
#[command(name = "kubenet-shim", version, disable_help_subcommand = true, args_override_self = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    /// File with these settings as JSON, for those that are not given [default: /etc/kubenet-shim.json]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show which plugins there are, and which one is chosen
    Probe,
    /// Make the node ready: once, before any pod
    Init,
    /// Tell the plugin of a change
    Event {
        #[command(subcommand)]
        event: Event,
    },
    /// Set a pod's network up
    Setup(PodArgs),
    /// Take a pod's network down; may be repeated
    Teardown(PodArgs),
    /// Show a pod's addresses, or without a pod whether pods could be set up
    Status(StatusArgs),
    /// Keep the node as it should be, until SIGTERM: at start, every 30 s and at SIGHUP
    Run,
    /// Print a ready CNI config for containerd and CRI-O
    Conflist {
        /// Of this version of CNI: 1.1.0 lets runtimes ask whether pods can be set up [default: 1.1.0 with
        /// containerd 2, else 1.0.0]
        #[arg(long, value_name = "VERSION")]
        cni_version: Option<String>,
        /// As a template (`conf_template`) that containerd fills in with the node's ranges
        #[arg(long)]
        template: bool,
    },
    /// Check what a node needs, and say what to do about what it lacks
    Doctor,
}

#[derive(Subcommand)]
enum Event {
    /// The node has got its ranges for pods
    PodCidrChange {
        /// Networks, parted by commas
        cidrs: String,
    },
}

#[derive(clap::Args)]
struct PodArgs {
    /// The pod's namespace
    namespace: String,
    /// The pod's name
    pod: String,
    /// The ID of the pod's sandbox (infra container)
    id: String,
    #[command(flatten)]
    more: More,
}

#[derive(clap::Args)]
struct StatusArgs {
    /// The pod's namespace
    #[arg(requires = "id")]
    namespace: Option<String>,
    /// The pod's name
    pod: Option<String>,
    /// The ID of the pod's sandbox (infra container)
    id: Option<String>,
    #[command(flatten)]
    more: More,
}

#[derive(clap::Args)]
struct More {
    /// The pod's network namespace [default: ask the container runtime]
    #[arg(long, value_name = "PATH")]
    netns: Option<String>,
    /// One of the pod's annotations; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// The pod's ports, as the CNI capability portMappings has them [default: a dockershim's checkpoint]
    #[arg(long, value_name = "JSON")]
    port_mappings: Option<String>,
}

/// Does what the words of a command line of `plugin`, which is kubenet-shim, ask for.
#[must_use]
pub fn run(plugin: &dyn Plugin, words: &[OsString]) -> ExitCode {
    let words = [OsString::from("kubenet-shim")].into_iter().chain(words.iter().cloned());
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no failure.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            if code == ExitCode::SUCCESS {
                cni_common::log::write(format_args!("{}", about_text(plugin.name(), plugin.since())));
            }
            let _ = error.print();
            return code;
        }
    };
    let settings = stop::watch().and_then(|()| Settings::read(cli.options, cli.config.as_deref()));
    match settings.and_then(|settings| act(&cli.verb, settings)) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                cni_common::log!("the answer could not be written: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            cni_common::log!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what was asked for, and gives what there is to print.
fn act(verb: &Verb, settings: Settings) -> Result<String> {
    let settings = if is_exec_plugin() { settings.with_default_plugin("kubenet") } else { settings };
    let chosen = || host::select(&settings);
    match verb {
        Verb::Probe => {
            let text = probe(&settings);
            chosen().map(|_| text.clone()).inspect_err(|_| {
                // What there is to choose from is worth knowing all the same.
                let _ = std::io::stdout().write_all(text.as_bytes());
            })
        }
        Verb::Init => {
            let plugin = chosen()?;
            plugin
                .init()
                .map_err(|error| error.context(format!("network plugin {:?} failed init", plugin.name())))?;
            Ok(String::new())
        }
        Verb::Event { event: Event::PodCidrChange { cidrs } } => {
            chosen()?.pod_cidr_change(cidrs).map(|()| String::new())
        }
        Verb::Setup(args) => {
            let (plugin, pod) = (chosen()?, args.pod()?);
            let _lock = lock(&*plugin, &pod, &settings)?;
            let set_up = plugin.set_up(&pod);
            Ok(line(set_up.map_err(|error| failed(&*plugin, "failed to set up", &pod, error))?))
        }
        Verb::Teardown(args) => {
            let (plugin, pod) = (chosen()?, args.pod()?);
            let _lock = lock(&*plugin, &pod, &settings)?;
            let done = plugin.tear_down(&pod).map(|()| String::new());
            done.map_err(|error| failed(&*plugin, "failed to teardown", &pod, error))
        }
        Verb::Status(args) => match args.pod()? {
            None => chosen()?.status().map(|()| String::new()),
            Some(pod) => {
                let plugin = chosen()?;
                let status = plugin.pod_status(&pod);
                Ok(line(
                    status.map_err(|error| failed(&*plugin, "failed on the status hook for", &pod, error))?,
                ))
            }
        },
        Verb::Run => reconcile::run(&settings).map(|()| String::new()),
        Verb::Conflist { template, cni_version } => {
            conflist::text(&settings, *template, cni_version.as_deref())
        }
        Verb::Doctor => doctor(&settings),
    }
}

/// As kubelet had it: setup and teardown of one pod wait for each other, those of different pods do not.
fn lock(plugin: &dyn NetworkPlugin, pod: &Pod, settings: &Settings) -> Result<Option<PassingLock>> {
    // It does nothing for pods, and keeps nothing.
    if plugin.name() == host::NOOP {
        return Ok(None);
    }
    let name = format!("{}_{}", pod.name, pod.namespace);
    state::lock_pod(&settings.state_dir(), &name, settings.timeout()).map(Some)
}

fn doctor(settings: &Settings) -> Result<String> {
    let (text, healthy) = doctor::examine(settings)?;
    if healthy {
        return Ok(text);
    }
    let count = text.lines().filter(|line| line.starts_with("TODO")).count();
    std::io::stdout().write_all(text.as_bytes()).io("write what was found")?;
    Err(Error::config(format!("{count} things are to be done, see above")))
}

fn failed(plugin: &dyn NetworkPlugin, what: &str, pod: &Pod, error: Error) -> Error {
    error.context(format!(
        "networkPlugin {} {what} pod \"{}_{}\" network",
        plugin.name(),
        pod.name,
        pod.namespace
    ))
}

/// What an exec plugin answers; nothing to leave it to the runtime.
fn line(status: Option<PodStatus>) -> String {
    status.map(|status| format!("{}\n", status.to_json())).unwrap_or_default()
}

/// Whether a kubelet, or our own host, runs us as its exec plugin: from a folder of our own name, or by the host's mark.
fn is_exec_plugin() -> bool {
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let folder = program.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let own = program.file_name().map(|name| name.to_string_lossy().into_owned());
    let is_named_so = folder.is_some_and(|folder| folder.rsplit('~').next().map(ToOwned::to_owned) == own);
    is_named_so || exec_mark()
}

fn probe(settings: &Settings) -> String {
    let mut lines: Vec<String> = host::probe(settings)
        .iter()
        .map(|one| match &one.problem {
            None => format!("{}: {}", one.plugin.name(), one.plugin.origin()),
            Some(problem) => format!("{}: not to be chosen: {problem}", one.plugin.name()),
        })
        .collect();
    lines.push(match host::select(settings) {
        Ok(plugin) => format!("chosen: {}", plugin.name()),
        Err(error) => format!("chosen: none: {error}"),
    });
    lines.into_iter().map(|line| line + "\n").collect()
}

impl PodArgs {
    fn pod(&self) -> Result<Pod> {
        pod(&self.namespace, &self.pod, &self.id, &self.more)
    }
}

impl StatusArgs {
    fn pod(&self) -> Result<Option<Pod>> {
        match (&self.namespace, &self.pod, &self.id) {
            (Some(namespace), Some(name), Some(id)) => pod(namespace, name, id, &self.more).map(Some),
            _ => Ok(None),
        }
    }
}

fn pod(namespace: &str, name: &str, id: &str, more: &More) -> Result<Pod> {
    for (what, text) in [("namespace", namespace), ("name", name)] {
        // It goes into CNI_ARGS, whose pairs these would cut.
        if text.is_empty() || text.contains([';', '=']) || text.contains(char::is_control) {
            return Err(Error::config(format!(
                "the pod's {what} {text:.80?} is empty or holds ';', '=' or a control character"
            )));
        }
    }
    let annotation = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::config(format!("--annotation {text:.80?} is not KEY=VALUE"))),
    };
    let ports = |text: &String| {
        let value: Result<Value, _> = serde_json::from_str(text);
        value.ok().filter(Value::is_array).ok_or_else(|| {
            Error::config(format!("--port-mappings {text:.200?} is no JSON list"))
                .details(r#"want [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]"#)
        })
    };
    Ok(Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        id: ContainerId::try_from(id)
            .coded(cni_common::spec::Code::INVALID_CONFIG, format!("the sandbox's ID {id:.80?}"))?,
        netns: more.netns.clone(),
        annotations: more.annotation.iter().map(annotation).collect::<Result<_>>()?,
        port_mappings: more.port_mappings.as_ref().map(ports).transpose()?,
    })
}
