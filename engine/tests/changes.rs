//! Edits that take what is new, and what only comes of what was made again.

mod support;

use migrate_engine::{NodeState, RunError, RunState};
use serde_json::json;
use support::{Project, accept, applied, fails, plain, refused, rerun, resume, sentences};

/// What it gives is not known, and that it is taken is known all the same.
#[tokio::test]
async fn that_outputs_of_a_new_node_are_taken_is_a_change() {
    let workflow = "[nodes.a]\nstep = \"test\"\nwith = { value = 1 }\n\
                    [nodes.bad]\nstep = \"test\"\nneeds = [\"a\"]\n";
    let with_new = |value: &str| {
        format!(
            "{}[nodes.n]\nstep = \"test\"\nwith = {{ value = 1 }}\n",
            workflow.replace("value = 1", &format!("value = {value}"))
        )
    };
    let project = Project::new(workflow);
    fails(&project, "bad");
    project.run().await;
    project.calls();
    project.write_workflow(&with_new("\"${nodes.n.attempt}/shop\""));
    let changes = refused(&project).await;
    insta::assert_snapshot!(
        sentences(&changes).join("\n"),
        @"a: with.value was 1, is ${nodes.n.attempt} (not known yet)"
    );
    assert_eq!(changes.nodes[0].fields[0].now, Some(json!({ "$unknown": "nodes.n.attempt" })));
    // A field that is new is one too, and inside of what is there.
    project.write_workflow(&with_new("1, text = \"${nodes.n.value}\""));
    assert_eq!(refused(&project).await.nodes[0].fields[0].field, "with.text");
    project.write_workflow(&with_new("{ deep = [\"${nodes.n.attempt}\"] }"));
    assert_eq!(refused(&project).await.nodes[0].fields[0].field, "with.value");
    assert!(applied(&project).is_empty());

    // The process stops between the two.
    project.write_workflow(&with_new("\"${nodes.n.value}\"").replace("bad", "late"));
    assert_eq!(sentences(&refused(&project).await).len(), 1);
    fails(&project, "n");
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
    assert_eq!(sentences(&refused(&project).await).len(), 1, "it has not been done");
    project.calls();
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    // What comes out as it was is not made again, and not told again.
    assert_eq!(applied(&project), ["apply n", "apply late"], "{:?}", project.effects());
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
}

/// The run is done, and nothing of it has failed.
#[tokio::test]
async fn that_outputs_of_a_new_node_are_taken_is_a_change_of_a_done_run() {
    let project = Project::new("[nodes.a]\nstep = \"test\"\nwith = { value = \"b1\" }\n");
    project.run().await;
    project.calls();
    project.write_workflow(
        "[nodes.a]\nstep = \"test\"\nwith = { value = \"${nodes.n.value}\" }\n\
         [nodes.n]\nstep = \"test\"\nwith = { value = \"b2\" }\n",
    );
    assert_eq!(refused(&project).await.nodes[0].node.as_str(), "a");
    assert!(applied(&project).is_empty());
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply n", "apply a"]);
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    // From now on it is no news.
    assert_eq!(resume(&project, rerun("n")).await.unwrap().state, RunState::Done);
}

#[tokio::test]
async fn that_a_list_comes_of_a_new_node_is_a_change() {
    let list = |list: &str, more: &str| {
        format!(
            "[nodes.copy]\nstep = \"test\"\nfor_each = {list}\nwith = {{ value = \"${{each.value}}\" }}\n{more}"
        )
    };
    let project = Project::new(&list("[\"shop\"]", ""));
    project.run().await;
    project.calls();
    let names = |names: &str| {
        list("\"${nodes.n.value}\"", &format!("[nodes.n]\nstep = \"test\"\nwith = {{ value = {names} }}\n"))
    };
    project.write_workflow(&names("[\"shop\"]"));
    let changes = refused(&project).await;
    insta::assert_snapshot!(
        sentences(&changes).join("\n"),
        @r#"
    copy: for_each was ["shop"], is ${nodes.n.value} (not known yet)
    copy[shop]: with.value was "shop", is ${each.value} (not known yet)
    "#
    );
    assert!(applied(&project).is_empty());
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply n"], "it comes out as it was");
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));

    // Another new one gives another list, and fails to be gone through to the end.
    project.write_workflow(&names("[\"shop\", \"web\"]").replace("nodes.n", "nodes.m"));
    assert_eq!(sentences(&refused(&project).await).len(), 2, "and the other is gone");
    fails(&project, "copy[web]");
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
    assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done, "it was accepted");
    assert_eq!(resume(&project, rerun("m")).await.unwrap().state, RunState::Done);
}

/// Items of different age stand beside each other: each was made of what there was then.
#[tokio::test]
async fn what_a_list_gives_anew_is_no_change_of_the_files() {
    let workflow = "[nodes.u]\nstep = \"test\"\n[nodes.list]\nstep = \"test\"\nfor_each = [\"one\", \"two\"]\n\
                    with = { value = { name = \"${each.value}\", at = \"${nodes.u.attempt}\" } }\n\
                    [nodes.r]\nstep = \"test\"\nfor_each = \"${nodes.list[*].value}\"\n\
                    key = \"${each.value.name}\"\nmax_parallel = 1\n\
                    on_failure = \"undo\"\nwith = { value = \"${each.value.at}\" }\n";
    let project = Project::new(workflow);
    project.run().await;
    fails(&project, "r[one]");
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
    fails(&project, "r[two]");
    let report = resume(&project, plain()).await.unwrap();
    assert_eq!(report.state, RunState::Failed, "what stands is not taken back: {report:#?}");
    assert_eq!(report.node("r[one]").unwrap().state, NodeState::Finished);
    // With another change that is accepted, too.
    project.write_environment("[site]\nname = \"there\"\n");
    fails(&project, "r[two]");
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
    assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done);
    // An edit is told again once all are of one age.
    project.write_workflow(&workflow.replace("${each.value.at}", "${each.value.at}/shop"));
    let told = sentences(&refused(&project).await);
    assert_eq!(told, ["r[one]: with.value was 2, is \"2/shop\"", "r[two]: with.value was 2, is \"2/shop\""]);
    // And one of a list that has not been gone through again.
    project.write_workflow(workflow);
    fails(&project, "list[two]");
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
    assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done);
}

/// The list as it is stored is that of the last time that it was gone through, however old its items are.
#[tokio::test]
async fn a_list_that_came_out_differently_is_not_told_backwards() {
    let workflow = |names: &str| {
        format!(
            "[nodes.u]\nstep = \"test\"\nwith = {{ value = {names} }}\n\
             [nodes.l]\nstep = \"test\"\nfor_each = \"${{nodes.u.value}}\"\nmax_parallel = 1\n\
             with = {{ value = \"${{each.value}}\" }}\n\
             [nodes.b]\nstep = \"test\"\nwith = {{ value = \"${{nodes.l[*].value}}\" }}\n"
        )
    };
    for (before, after) in [("[\"x\", \"y\"]", "[\"x\"]"), ("[\"x\"]", "[\"x\", \"y\"]")] {
        let project = Project::new(&workflow(before));
        project.run().await;
        project.write_workflow(&workflow(after));
        project.script(|s| s.blind.push("l[x]".into()));
        assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
        project.script(|s| s.blind.clear());
        assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done, "{before} {after}");
        let made = project.effects().into_iter().filter(|(node, _)| node == "l[x]").count();
        assert_eq!(made, 1);
    }
}

/// What was taken of a list was taken of what was in it, and at its place.
#[tokio::test]
async fn what_is_taken_of_a_list_that_came_out_shorter_is_no_change_of_the_files() {
    let project = Project::new(
        "[nodes.u]\nstep = \"test\"\n[nodes.m]\nstep = \"test\"\nfor_each = [\"x\", \"y\", \"z\"]\n\
         when = \"each.key != 'y' || nodes.u.attempt == 1\"\nwith = { value = \"${each.value}\" }\n\
         [nodes.l]\nstep = \"test\"\nfor_each = \"${nodes.m[*].value}\"\nmax_parallel = 1\n\
         with = { value = \"${each.value}\", text = \"at ${each.index}\" }\n\
         [nodes.b]\nstep = \"test\"\nwith = { value = \"${nodes.l[*].value}\" }\n\
         [nodes.c]\nstep = \"test\"\nneeds = [\"l\"]\nwith = { value = \"${nodes.m[*].value}\" }\n",
    );
    project.run().await;
    // `l` is stored without `y`, and stops before anything is made of it.
    project.script(|s| s.blind.push("l[x]".into()));
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
    project.script(|s| s.blind.clear());
    let report = resume(&project, plain()).await.unwrap();
    assert_eq!(report.state, RunState::Done);
    assert_eq!(report.node("b").unwrap().outputs.as_ref().unwrap()["value"], json!(["x", "z"]));
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
}

/// An output that was made again has it skipped, and with it what takes its own.
#[tokio::test]
async fn what_is_skipped_since_something_came_out_differently_is_no_change_of_the_files() {
    for list in ["", "for_each = [\"x\"]\n"] {
        let taken = if list.is_empty() { "nodes.a.attempt" } else { "nodes.a[*].attempt" };
        let project = Project::new(&format!(
            "[nodes.u]\nstep = \"test\"\n\
             [nodes.a]\nstep = \"test\"\n{list}when = \"nodes.u.attempt == 1\"\n\
             [nodes.c]\nstep = \"test.natural\"\nneeds = [\"a\"]\n\
             [nodes.b]\nstep = \"test\"\nneeds = [\"c\"]\nwith = {{ value = \"${{{taken}}}\" }}\n"
        ));
        project.run().await;
        fails(&project, "c");
        assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
        let report = resume(&project, plain()).await.unwrap();
        assert_eq!((report.state, report.node("b").unwrap().state), (RunState::Done, NodeState::Skipped));
    }
}

/// Who edits a node to take outputs of what is skipped is told.
#[tokio::test]
async fn that_outputs_of_what_is_skipped_are_taken_is_a_change() {
    let workflow = |value: &str| {
        format!(
            "[nodes.a]\nstep = \"test\"\nwhen = \"env.site.name == 'there'\"\n\
             [nodes.u]\nstep = \"test\"\n[nodes.s]\nstep = \"test\"\nwhen = \"nodes.u.attempt == 2\"\n\
             [nodes.b]\nstep = \"test\"\nneeds = [\"s\"]\nwith = {{ value = {value} }}\n"
        )
    };
    let project = Project::new(&workflow("1"));
    project.run().await;
    for name in ["a", "s"] {
        project.write_workflow(&workflow(&format!("\"${{nodes.{name}.attempt}}\"")));
        assert!(refused(&project).await.nodes[0].skipped.is_some(), "{name}");
    }
}

/// As are those of what was skipped after the node was last seen to hold.
#[tokio::test]
async fn that_outputs_of_what_was_skipped_later_are_taken_is_a_change() {
    let workflow = |value: &str| {
        format!(
            "[nodes.u]\nstep = \"test\"\n[nodes.n]\nstep = \"test\"\nwhen = \"nodes.u.attempt == 1\"\n\
             [nodes.a]\nstep = \"test\"\nwith = {{ value = {value} }}\n\
             [nodes.bad]\nstep = \"test\"\nneeds = [\"a\", \"n\"]\n"
        )
    };
    let project = Project::new(&workflow("1"));
    fails(&project, "bad");
    project.run().await;
    fails(&project, "bad");
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
    project.write_workflow(&workflow("\"${nodes.n.attempt}\""));
    let changes = refused(&project).await;
    assert_eq!(changes.nodes[0].node.as_str(), "a");
    assert!(changes.nodes[0].skipped.is_some());
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
}

/// What a node did not need has not ended before it, whatever of it had.
#[tokio::test]
async fn that_outputs_of_a_list_in_progress_are_taken_is_a_change() {
    let workflow = |value: &str| {
        format!(
            "[nodes.export]\nstep = \"test\"\nfor_each = [\"a\", \"b\"]\n\
             with = {{ value = \"${{each.value}}\" }}\n\
             [nodes.setup]\nstep = \"test\"\nwith = {{ value = {value} }}\n"
        )
    };
    let project = Project::new(&workflow("\"b1\""));
    for node in ["export[b]", "setup"] {
        fails(&project, node);
    }
    assert_eq!(project.run().await.state, RunState::Failed);
    fails(&project, "export[b]");
    let report = resume(&project, plain()).await.unwrap();
    assert_eq!(report.node("setup").unwrap().state, NodeState::Finished);
    project.calls();
    project.write_workflow(&workflow("\"${nodes.export[*].value}\""));
    assert_eq!(
        sentences(&refused(&project).await),
        [r#"setup: with.value was "b1", is ${nodes.export[*].value} (not known yet)"#]
    );
    assert!(applied(&project).is_empty());
    // It was accepted and not done, so nothing else has been accepted of it.
    fails(&project, "export[b]");
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
    project.calls();
    project.write_workflow(&workflow("\"${nodes.export[*].attempt}\""));
    assert_eq!(sentences(&refused(&project).await).len(), 1);
    project.write_workflow(&workflow("\"${nodes.export[*].value}\""));
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply export[b]", "apply setup"]);
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
}

/// What it will say is not known, and that it is asked is known all the same.
#[tokio::test]
async fn that_a_condition_asks_a_new_node_is_a_change() {
    for list in ["", "for_each = [\"x\"]\n"] {
        let node = |more: &str| format!("[nodes.a]\nstep = \"test\"\n{list}{more}");
        let bad = "[nodes.bad]\nstep = \"test\"\nneeds = [\"a\"]\n";
        let project = Project::new(&format!("{}{bad}", node("")));
        fails(&project, "bad");
        project.run().await;
        project.calls();
        let asks = node("when = \"nodes.n.value == 2\"\n");
        project.write_workflow(&format!("{asks}{bad}[nodes.n]\nstep = \"test\"\nwith = {{ value = 1 }}\n"));
        let told = sentences(&refused(&project).await);
        assert_eq!(told, ["a: when was absent, is \"nodes.n.value == 2\""]);
        assert!(applied(&project).is_empty());
        // It is not to be made again, and its step not asked what that would be. That of an unknown list is.
        if list.is_empty() {
            project.script(|s| drop(s.refuse.insert("a".into(), "it is there".into())));
        }
        let report = resume(&project, accept()).await.unwrap();
        assert_eq!((report.state, report.node("a").unwrap().state), (RunState::Done, NodeState::Skipped));
        assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    }
}

/// What would be made of a list that stays skipped is nothing to accept.
#[tokio::test]
async fn a_change_of_what_stays_skipped_is_not_told() {
    let workflow = |value: &str, when: &str| {
        format!(
            "[nodes.u]\nstep = \"test\"\n[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\"]\n\
             when = \"{when}\"\nwith = {{ value = \"{value}\" }}\n"
        )
    };
    let first = "nodes.u.attempt == 1";
    let project = Project::new(&workflow("${each.value}", first));
    project.run().await;
    let report = resume(&project, rerun("u")).await.unwrap();
    assert_eq!((report.state, report.node("copy").unwrap().state), (RunState::Done, NodeState::Skipped));
    project.write_workflow(&workflow("${each.key}!", first));
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    // There again with it, or perhaps, it is.
    assert!(matches!(resume(&project, rerun("u")).await, Err(RunError::Changed(..))));
    project.write_workflow(&workflow("${each.key}!", "env.site.name == 'here'"));
    assert_eq!(
        sentences(&refused(&project).await),
        ["copy: when was \"nodes.u.attempt == 1\", is absent", "copy[a]: with.value was \"a\", is \"a!\"",]
    );
}
