//! IPAM delegation (SPEC.md, "Section 4"): the plugin that `ipam.type` names gets the same command, environment
//! and stdin as we did.

use super::{Callee, PluginPath, Running};
use crate::plugin::{Env, IPAM_DELEGATE, Request};
use crate::spec::{Code, Command, Error, Result, SpecVersion, Success, compat, json};
use crate::undo::Undo;

/// The IPAM plugin of a network.
#[derive(Clone)]
pub struct Ipam {
    callee: Callee,
    env: Env,
    stdin: Vec<u8>,
    version: SpecVersion,
}

/// An IPAM ADD under way.
///
/// Dropped without [`Pending::wait`] (something else failed meanwhile), it frees what IPAM then leased.
pub struct Pending {
    ipam: Ipam,
    running: Option<Running>,
}

impl Ipam {
    /// Finds the plugin `name` along `CNI_PATH`.
    ///
    /// # Errors
    /// See [`super::PluginPath::find`].
    pub fn find(request: &Request, name: &str) -> Result<Self> {
        let callee = Callee::find(&PluginPath::of_env(&request.env), name)
            .map_err(|error| error.context(format!("IPAM plugin {name:.80?} can't be called")))?;
        Ok(Self {
            callee,
            env: request.env.with(&[(IPAM_DELEGATE, "1")]),
            stdin: request.stdin.clone(),
            version: request.conf.version,
        })
    }

    /// Starts ADD; [`Pending::wait`] takes its answer.
    ///
    /// # Errors
    /// Code 5 when it can't be started.
    pub fn start_add(&self) -> Result<Pending> {
        let running = self.callee.start(Command::Add, &self.stdin, &self.env)?;
        Ok(Pending { running: Some(running), ipam: self.clone() })
    }

    /// Runs `command`, whose answer is empty.
    ///
    /// # Errors
    /// The plugin's own. GC and STATUS of a plugin that does not know them succeed: there is nothing it could do or
    /// say.
    pub fn call(&self, command: Command) -> Result<()> {
        match self.callee.call(command, &self.stdin, &self.env, None) {
            Err(error) if matches!(command, Command::Gc | Command::Status) && is_unknown_command(&error) => {
                Ok(())
            }
            other => other.map(drop),
        }
    }
}

/// Older plugins miss variables (codes 3 and 4) that GC and STATUS do not have, or say that they do not know the
/// command (code 4).
pub(crate) fn is_unknown_command(error: &Error) -> bool {
    const UNKNOWN_CONTAINER: Code = Code(3);
    matches!(error.code, UNKNOWN_CONTAINER | Code::BAD_ENVIRONMENT)
}

impl Pending {
    /// Waits for the answer. From here on the addresses are ours: `undo` frees them.
    ///
    /// # Errors
    /// The plugin's own: then nothing was leased and nothing is freed (a DEL would free an earlier attachment's).
    /// Code 6 when its answer is not a result, code 7 when the result has no address; then `undo` frees what it leased.
    pub fn wait(mut self, undo: &mut Undo) -> Result<Success> {
        let ipam = self.ipam.clone();
        let (name, version) = (ipam.callee.name().to_owned(), ipam.version);
        let stdout = self.running.take().map(Running::wait).transpose()?.unwrap_or_default();
        undo.push(format!("IPAM ADD by {name}"), move || Ok(ipam.call(Command::Del)?));
        let document = json::parse(&stdout).map_err(|error| {
            Error::new(Code::DECODE, format!("the answer of IPAM plugin {name:?} is not JSON"))
                .details(error.cause())
        })?;
        let success = compat::from_json(&document, version)
            .map_err(|error| error.context(format!("the answer of IPAM plugin {name:?} is not a result")))?;
        if success.ips.is_empty() {
            return Err(Error::config("IPAM plugin returned missing IP config")
                .details(format!("ipam.type is {name:?}")));
        }
        Ok(success)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        if running.wait().is_ok()
            && let Err(error) = self.ipam.call(Command::Del)
        {
            crate::log!("undo of IPAM ADD by {} failed: {error}", self.ipam.callee.name());
        }
    }
}
