//! Running other programs: as they are, or as root.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::MetadataExt as _,
    process::{Command, ExitCode, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::toolchain::find_program;

/// Tells the user what goes on, in one line on standard error.
pub(crate) fn say(line: impl fmt::Display) {
    // Nobody is left to be told when standard error is gone.
    let _ = writeln!(io::stderr(), "xtask: {line}");
}

/// Writes a result for people or programs to standard output, line by line.
pub(crate) fn print(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The cargo that runs this program, with what it has set for *this* package removed: nested builds would take
/// themselves for changed.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|n| n.starts_with("CARGO_PKG_") || n.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a command to its end; fails only if it cannot be started.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    command.status().with_context(|| format!("{} does not start", command.get_program().display()))
}

/// Runs a command that must succeed. What it prints is progress, so it goes to standard error.
pub(crate) fn must(command: &mut Command) -> Result<()> {
    let status = run(command.stdout(io::stderr()))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line_of(command));
    }
    Ok(())
}

/// Runs a command that must succeed, and returns its standard output.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    command.stderr(Stdio::inherit());
    let output =
        command.output().with_context(|| format!("{} does not start", command.get_program().display()))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line_of(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote other than UTF-8", line_of(command)))
}

/// A command as its user would type it, for messages.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The exit code of a child, as ours; a death by signal is a failure.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

/// A command run as root, with this process's environment: directly, or through `sudo`.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = root_prefix()?;
    let Some((first, rest)) = prefix.split_first() else { return Ok(Command::new(program)) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    Ok(command)
}

/// The words before a command that make it run as root; none if this process is root already.
pub(crate) fn root_prefix() -> Result<Vec<String>> {
    if is_root() {
        return Ok(Vec::new());
    }
    if find_program("sudo").is_none() {
        bail!("this needs root, and there is no sudo: run it as root");
    }
    if !io::stdin().is_terminal() {
        let allowed = Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null()).status();
        if !allowed.is_ok_and(|status| status.success()) {
            bail!("this needs root, and sudo wants a password that nobody is there to type: run it as root");
        }
    }
    // sudo replaces PATH even when it keeps everything else.
    let path = env::var("PATH").context("PATH is not set")?;
    Ok(["sudo", "-E", "env"].map(str::to_owned).into_iter().chain([format!("PATH={path}")]).collect())
}
