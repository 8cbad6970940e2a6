//! What people decide about a run: `approve` and `undo`.

use migrate_engine::{
    DecideRequest, NodeState, RunReport, RunState, RunSummary, UndoAction, UndoPlan, UndoRequest,
};
use migrate_plugin_api::{NodeId, RunId};

use crate::args::{ApproveArgs, UndoArgs};
use crate::commands::{Session, run_id};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::say::say;
use crate::table::Table;

impl Session<'_> {
    pub(crate) async fn approve(&self, args: &ApproveArgs) -> Result<Exit, Failure> {
        let request = DecideRequest {
            run: run_id(args.run.named())?,
            node: NodeId::new(args.node.clone())?,
            approved: !args.reject,
            by: user(),
            host: host(),
            note: args.note.clone(),
        };
        let approval = self.engine.decide(request).await?;
        if self.cli.json {
            print_json("decision", &approval)?;
        }
        say!("gate {} of run {} {}", approval.node, approval.run, approval.decision.sentence());
        say!("it asked: {}", approval.question);
        let resume = self.resume_command(&approval.run);
        match &approval.holder {
            Some(holder) => say!("it is taken up within seconds by {holder}; if that has ended: {resume}"),
            None => say!("go on with: {resume}"),
        }
        Ok(Exit::Done)
    }

    pub(crate) async fn undo(&self, args: &UndoArgs) -> Result<Exit, Failure> {
        let run = run_id(args.run.named())?;
        let plan = self.engine.plan_undo(run.as_ref()).await?;
        if run.is_none() {
            self.say_unfinished(&plan.run).await?;
        }
        if args.yes {
            let leave = args.leave.iter().map(NodeId::new).collect::<Result<_, _>>()?;
            let request = UndoRequest { run: Some(plan.run), leave };
            let work = async |events, shutdown: &_| self.engine.undo(request, events, shutdown).await;
            return Ok(match self.advance_to(work).await? {
                // What was asked for is done.
                (report, _) if report.state == RunState::Undone => Exit::Done,
                (_, exit) => exit,
            });
        }
        if self.cli.json {
            print_json("undo-plan", &plan)?;
        } else {
            print(&render(&plan))?;
        }
        say!("nothing was undone; to do it: migrate{} undo {} --yes", self.project_option(), plan.run);
        Ok(Exit::Done)
    }

    /// Other runs that a person may have meant, if they did not say which.
    async fn say_unfinished(&self, meant: &RunId) -> Result<(), Failure> {
        let is_open = |run: &&RunSummary| !matches!(run.state, RunState::Done | RunState::Undone);
        let runs = self.engine.runs().await?;
        let others = runs.iter().filter(is_open).filter(|run| run.run != *meant);
        let others: Vec<&str> = others.map(|run| run.run.as_str()).collect();
        if !others.is_empty() {
            say!("note: this is about run {meant}, the newest; not finished either: {}", others.join(", "));
        }
        Ok(())
    }

    /// How a run that waits goes on.
    pub(crate) fn say_waiting(&self, report: &RunReport) {
        let (project, run) = (self.project_option(), &report.run);
        for gate in
            report.nodes.iter().filter(|node| node.state == NodeState::Waiting && node.items.is_none())
        {
            let node = gate.node.quoted();
            say!("waiting for a decision: migrate{project} approve {node} --run {run} [--reject]");
        }
        say!("then go on with: {}", self.resume_command(&report.run));
    }
}

/// What an undo would do, in its order.
fn render(plan: &UndoPlan) -> String {
    let mut table = Table::new(["NODE", "STEP", "UNDO"]);
    for node in &plan.nodes {
        let besides = node.reason.as_ref().map(|reason| format!("; {reason}")).unwrap_or_default();
        let what = match node.action {
            UndoAction::Undo => format!("undo{besides}"),
            UndoAction::Look => format!("look for what its last attempt made, and undo it{besides}"),
            UndoAction::Blocked => {
                format!("can't be undone now: {}", node.reason.as_deref().unwrap_or("its step can't be used"))
            }
            UndoAction::Leave => {
                format!("left as it is: {}", node.reason.as_deref().unwrap_or("it can't be undone"))
            }
        };
        table.row([node.node.to_string(), node.step.clone(), what]);
    }
    format!("undo of run {} of {}:\n\n{table}", plan.run, plan.workflow)
}

/// The end of an undo, with what it has left.
pub(crate) fn say_undone(report: &RunReport) {
    let why = report.undo.as_deref().unwrap_or_default();
    say!("the run is undone ({why})");
    let left = report.nodes.iter().filter(|node| node.state == NodeState::Left);
    let left: Vec<&str> = left.map(|node| node.node.as_str()).collect();
    if !left.is_empty() {
        say!("left as they are: {}", left.join(", "));
    }
}

/// Who runs this process, as the operating system says; the environment could say anything.
fn user() -> String {
    let uid = rustix::process::getuid().as_raw();
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("uid {uid}"))
}

fn host() -> String {
    let names = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let read = |path: &&str| std::fs::read_to_string(path).ok().map(|name| name.trim().to_owned());
    names.iter().find_map(read).filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}
