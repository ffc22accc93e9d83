//! kubenet as a CNI plugin.

use crate::cli;
use crate::conf::Conf;
use crate::kubenet::pods;
use cni_common::owner::Living;
use cni_common::plugin::{Added, Plugin, Request, Target};
use cni_common::runtime::Endpoint;
use cni_common::spec::{Code, Result};
use cni_common::undo::Undo;
use std::ffi::OsString;
use std::process::ExitCode;

/// The plugin.
pub struct KubenetShim;

impl Plugin for KubenetShim {
    fn name(&self) -> &'static str {
        "kubenet-shim"
    }

    fn alias(&self) -> Option<&'static str> {
        // What it was called inside kubelet, and what its folder among a kubelet's exec plugins is called.
        Some("kubenet")
    }

    fn command_line(&self, words: &[OsString]) -> Option<ExitCode> {
        // A runtime that calls a CNI plugin always says so. Nomad calls without a word and reads the version that is told then.
        let is_called_by_runtime = std::env::var_os("CNI_COMMAND").is_some_and(|command| !command.is_empty());
        let asks_who = matches!(words, [] | [_]) && words.first().is_none_or(|word| word == "--version");
        (!is_called_by_runtime && !asks_who).then(|| cli::run(self, words))
    }

    fn add(&self, request: &Request, target: &Target) -> Result<Added> {
        let conf = Conf::read(request)?;
        // Malformed arguments are the runtime's fault, and told before any work.
        let args = request.arg_pairs()?;
        let endpoint = Endpoint { args, ..conf.endpoint(request, target) };
        let _lock = conf.lock(target)?;
        let success = pods::set_up(&conf.node, &endpoint)?;
        let mut undo = Undo::default();
        undo.push("kubenet", move || Ok(pods::tear_down(&conf.node, &endpoint)?));
        Ok(Added { success, undo })
    }

    fn del(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read_for_del(request)?;
        let endpoint = conf.endpoint(request, target);
        let _lock = match conf.lock(target) {
            // A folder that can't be written to keeps no pod from its end.
            Err(error) if error.code == Code::IO => {
                cni_common::log!("DEL without a lock: {error}");
                None
            }
            lock => Some(lock?),
        };
        pods::tear_down(&conf.node, &endpoint)
    }

    fn check(&self, request: &Request, target: &Target) -> Result<()> {
        let conf = Conf::read(request)?;
        request.conf.required_prev_result()?;
        let _lock = conf.lock(target)?;
        pods::check(&conf.node, &conf.endpoint(request, target))
    }

    fn gc(&self, request: &Request, living: &Living) -> Result<()> {
        pods::gc(&Conf::read_for_del(request)?.node, living.attachments)
    }

    fn status(&self, request: &Request) -> Result<()> {
        Conf::read(request).and_then(|conf| pods::status(&conf.node))
    }
}
