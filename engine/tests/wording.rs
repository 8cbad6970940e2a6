//! Edits of what is written beside outputs, items and conditions.

mod support;

use migrate_engine::{NodeState, RunError, RunState};
use support::{Project, accept, applied, approve, fails, plain, refused, rerun, resume, sentences};

/// It is written, whatever it stands for.
#[tokio::test]
async fn what_stands_for_nothing_yet_hides_no_change() {
    let workflow = |list: &str, value: &str| {
        format!(
            "[nodes.n]\nstep = \"test\"\nwith = {{ value = {{ host = \"here\" }} }}\n\
             [nodes.copy]\nstep = \"test\"\nfor_each = {list}\nwith = {{ value = \"${{each.value}}\" }}\n\
             [nodes.after]\nstep = \"test\"\nneeds = [\"n\"]\nwith = {{ value = {value}, text = \"b1\" }}\n"
        )
    };
    let project = Project::new(&workflow("[\"shop\"]", "1"));
    project.run().await;
    // An item that is new too.
    let both = workflow("[\"shop\", \"web\"]", "\"${nodes.copy.web.attempt}\"");
    project.write_workflow(&both.replace("b1", "b2"));
    assert_eq!(
        sentences(&refused(&project).await),
        [
            "copy: for_each[\"web\"] was absent, is \"web\"",
            "after: with.text was \"b1\", is \"b2\"",
            "after: with.value was 1, is ${nodes.copy.web.attempt} (not known yet)",
        ]
    );
    // A field that only comes with another answer, of a node that is asked again.
    project.write_workflow(&workflow("[\"shop\"]", "\"${nodes.n.value.port}\""));
    let error = resume(&project, rerun("n")).await.unwrap_err();
    let RunError::Changed(_, changes) = &error else { panic!("{error}") };
    assert_eq!(sentences(changes), ["after: with.value was 1, is ${nodes.n.value.port} (not known yet)"]);
}

/// What it stands for is about to be replaced.
#[tokio::test]
async fn that_outputs_are_taken_of_what_is_made_again_is_a_change() {
    let workflow = |value: &str| {
        format!("[nodes.n]\nstep = \"test\"\n[nodes.a]\nstep = \"test\"\nwith = {{ value = {value} }}\n")
    };
    let project = Project::new(&workflow("1"));
    project.run().await;
    project.calls();
    project.write_workflow(&workflow("\"${nodes.n.attempt}\""));
    let error = resume(&project, rerun("n")).await.unwrap_err();
    let RunError::Changed(_, changes) = &error else { panic!("{error}") };
    assert_eq!(sentences(changes), ["a: with.value was 1, is \"${nodes.n.attempt}\""]);
    assert!(applied(&project).is_empty());
    // Once accepted it is so, made again or not.
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert!(applied(&project).is_empty(), "it comes to the same");
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    assert_eq!(resume(&project, rerun("n")).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply n", "apply a"]);
}

/// Outputs of a list that was made again hide nothing that is written beside them.
#[tokio::test]
async fn a_change_beside_outputs_of_a_list_that_was_made_again_is_told() {
    let workflow = |list: &str, beside: &str| {
        format!(
            "[nodes.a]\nstep = \"test\"\nfor_each = [\"x\"]\nwith = {{ value = \"${{each.value}}\" }}\n\
             [nodes.go]\nstep = \"gate\"\nneeds = [\"a\"]\nwith = {{ message = \"Switch?\" }}\n\
             [nodes.b]\nstep = \"test\"\nneeds = [\"go\"]\n{list}with = {{ value = \"{beside}\" }}\n"
        )
    };
    for (list, text) in
        [("", "${nodes.a.x.attempt}"), ("for_each = \"${nodes.a[*].value}\"\n", "${each.value}")]
    {
        let project = Project::new(&workflow(list, &format!("{text}/shop")));
        assert_eq!(project.run().await.state, RunState::Waiting);
        approve(&project).await;
        assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done);
        assert_eq!(resume(&project, rerun("a")).await.unwrap().state, RunState::Waiting);
        approve(&project).await;
        project.calls();
        project.write_workflow(&workflow(list, &format!("{text}/other")));
        let changes = refused(&project).await;
        let fields: Vec<_> = changes.nodes.iter().flat_map(|change| &change.fields).collect();
        assert_eq!(fields.len(), 1, "{changes:?}");
        assert!(fields[0].to_string().ends_with("/other\""), "{}", fields[0]);
        assert!(applied(&project).is_empty());
    }
}

/// A list that was skipped comes back by an edit, with another one.
#[tokio::test]
async fn a_change_of_what_is_no_longer_skipped_is_told() {
    let workflow = |when: &str, value: &str| {
        format!(
            "[nodes.u]\nstep = \"test\"\n[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\"]\n\
             when = \"nodes.u.attempt {when}\"\nwith = {{ value = \"{value}\" }}\n\
             [nodes.bad]\nstep = \"test\"\nneeds = [\"copy\"]\n"
        )
    };
    let project = Project::new(&workflow("== 1", "b1"));
    project.run().await;
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Done);
    project.calls();
    project.write_workflow(&workflow("== 2", "b2"));
    let told = sentences(&refused(&project).await);
    assert_eq!(
        told,
        [
            "copy: when was \"nodes.u.attempt == 1\", is \"nodes.u.attempt == 2\"",
            "copy[a]: with.value was \"b1\", is \"b2\"",
        ]
    );
    assert!(applied(&project).is_empty());

    // Or because what it asks about doesn't hold any more, which nobody could know.
    let project = Project::new(&workflow("!= 2", "b1"));
    project.run().await;
    project.script(|s| s.blind.push("bad".into()));
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Failed);
    project.script(|s| {
        s.blind.clear();
        s.verify.insert("u".into(), [false].into());
    });
    project.calls();
    project.write_workflow(&workflow("!= 2", "b2"));
    let report = resume(&project, plain()).await.unwrap();
    assert_eq!(report.state, RunState::Failed);
    insta::assert_snapshot!(report.node("copy").unwrap().error.as_ref().unwrap().message,
        @"it is no longer skipped, and what it does has changed in the files since it ran; `migrate resume` tells what, and goes on with `--accept-changes`"
    );
    assert_eq!(applied(&project), ["apply u"]);
    assert_eq!(sentences(&refused(&project).await), ["copy[a]: with.value was \"b1\", is \"b2\""]);
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply copy[a]"]);
}

/// Another list has other items, also under the same keys.
#[tokio::test]
async fn items_of_another_list_are_others() {
    let workflow = |from: &str| {
        format!(
            "[nodes.a]\nstep = \"test\"\nwith = {{ value = [{{ name = \"x\", at = 1 }}] }}\n\
             [nodes.b]\nstep = \"test\"\nwith = {{ value = [{{ name = \"x\", at = 2 }}] }}\n\
             [nodes.r]\nstep = \"test\"\nfor_each = \"${{nodes.{from}.value}}\"\nkey = \"${{each.value.name}}\"\n\
             with = {{ value = \"${{each.value.at}}\" }}\n"
        )
    };
    let project = Project::new(&workflow("a"));
    project.run().await;
    project.calls();
    project.write_workflow(&workflow("b"));
    assert_eq!(
        sentences(&refused(&project).await),
        ["r: for_each was \"${nodes.a.value}\", is \"${nodes.b.value}\"", "r[x]: with.value was 1, is 2",]
    );
    // What is made again is asked before anything is.
    project.script(|s| drop(s.refuse.insert("r[x]".into(), "it is there".into())));
    assert!(matches!(resume(&project, accept()).await, Err(RunError::Refused(_))));
    assert!(applied(&project).is_empty());
    project.script(|s| s.refuse.clear());
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert_eq!(applied(&project), ["apply r[x]"]);
}

/// What a condition sees as a whole counts too, and is not repeated where it is long.
#[tokio::test]
async fn what_a_condition_only_looks_for_is_a_change() {
    let names: Vec<String> = (0..200).map(|at| format!("n{at}")).collect();
    let project = Project::new(&format!(
        "[params.names]\ntype = \"list\"\ndefault = {names:?}\n[nodes.u]\nstep = \"test\"\n\
         [nodes.a]\nstep = \"test\"\n\
         when = \"has(env.extra) && nodes.u.attempt > 0 && 'n0' in params.names\"\n"
    ));
    project.write_environment("[site]\nname = \"here\"\n[extra]\nx = 1\n");
    project.run().await;
    project.write_environment("[site]\nname = \"here\"\n");
    let changes = refused(&project).await;
    assert!(changes.nodes[0].skipped.is_some(), "{changes:?}");
    assert!(sentences(&changes).iter().all(|told| told.len() < 400), "{changes:?}");
}

/// What is written of a node is the same with a sub-workflow beside it.
#[tokio::test]
async fn that_a_file_takes_in_another_is_no_change_of_its_nodes() {
    let workflow = "[params.n]\ntype = \"map\"\ndefault = { x = 1 }\n[nodes.u]\nstep = \"test\"\n\
                    [nodes.a]\nstep = \"test\"\nwhen = \"nodes.u.attempt == params.n.x\"\n";
    let project = Project::new(workflow);
    project.run().await;
    std::fs::write(project.path("p.toml"), "schema = 1\nname = \"p\"\n[nodes.x]\nstep = \"test\"\n").unwrap();
    project.write_workflow(&format!(
        "{workflow}[nodes.p]\nstep = \"workflow\"\nwith = {{ file = \"p.toml\" }}\n"
    ));
    assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done);
}

/// What is no reference is none in what is kept of it.
#[tokio::test]
async fn that_a_text_becomes_a_reference_is_a_change() {
    let workflow = |text: &str| {
        format!(
            "[nodes.n]\nstep = \"test\"\n[nodes.a]\nstep = \"test\"\nwith = {{ value = \"${{nodes.n.attempt}}/{text}\" }}\n"
        )
    };
    let project = Project::new(&workflow("$${nodes.n.attempt}"));
    project.run().await;
    project.write_workflow(&workflow("${nodes.n.attempt}"));
    assert_eq!(
        sentences(&refused(&project).await),
        ["a: with.value was \"1/${nodes.n.attempt}\", is \"1/1\""]
    );
}

/// What would only be skipped is not asked what it would do, nor what is built on it.
#[tokio::test]
async fn what_is_skipped_by_a_change_is_not_planned() {
    for list in ["", "for_each = [\"x\"]\n"] {
        let workflow = |when: &str| {
            format!(
                "[nodes.n]\nstep = \"test\"\nwith = {{ value = 1 }}\n\
                 [nodes.a]\nstep = \"test\"\nneeds = [\"n\"]\n{list}{when}\
                 [nodes.b]\nstep = \"test.natural\"\nneeds = [\"a\"]\n"
            )
        };
        let project = Project::new(&workflow(""));
        project.run().await;
        project.calls();
        project.write_workflow(&workflow("when = \"nodes.n.value == 2\"\n"));
        let item = if list.is_empty() { "a" } else { "a[x]" };
        for node in [item, "b"] {
            project.script(|s| drop(s.refuse.insert(node.into(), "it is there".into())));
        }
        assert!(refused(&project).await.nodes.iter().any(|change| change.skipped.is_some()));
        let report = resume(&project, accept()).await.unwrap();
        assert_eq!((report.state, report.node("a").unwrap().state), (RunState::Done, NodeState::Skipped));
        assert!(applied(&project).is_empty());
    }
}

/// Values of parameters stand in their places, also beside what is not known and in a sub-workflow's conditions.
#[tokio::test]
async fn a_parameter_beside_an_output_is_a_change() {
    let workflow = |value: u32| {
        format!(
            "[nodes.u]\nstep = \"test\"\n\
             [nodes.p]\nstep = \"workflow\"\nwith = {{ file = \"p.toml\", params = {{ at = \"${{nodes.u.attempt}}\", n = {value} }} }}\n"
        )
    };
    let project = Project::new(&workflow(1));
    let part = "schema = 1\nname = \"p\"\n[params.at]\ntype = \"integer\"\n[params.n]\ntype = \"integer\"\n\
                [nodes.x]\nstep = \"test\"\nwhen = \"params.at > 0 && params.n < 3\"\n\
                with = { value = \"${params.at}/${params.n}\" }\n";
    std::fs::write(project.path("p.toml"), part).unwrap();
    project.run().await;
    project.write_workflow(&workflow(2));
    let error = resume(&project, rerun("u")).await.unwrap_err();
    let RunError::Changed(_, changes) = &error else { panic!("{error}") };
    insta::assert_snapshot!(sentences(changes).join("\n"), @r#"
    p/x: with.value was "1/1", is "1/2"
    p/x: when was "params.at > 0 && params.n < 3 (params.at = \"${nodes.u.attempt}\", params.n = 1)", is "params.at > 0 && params.n < 3 (params.at = \"${nodes.u.attempt}\", params.n = 2)"
    "#);
    // With the same words as before, what comes out differently is none.
    project.write_workflow(&workflow(1));
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Done);
    project.write_workflow(&workflow(3));
    assert!(refused(&project).await.nodes[0].skipped.is_some());
}

/// An item of a list that no node makes is as much in the files as anything, also where it keeps its name.
#[tokio::test]
async fn an_item_that_is_another_under_its_key_is_a_change() {
    let workflow = |size: u32| {
        format!(
            "[nodes.u]\nstep = \"test\"\n[nodes.a]\nstep = \"test\"\nfor_each = [{{ name = \"x\", size = {size} }}]\n\
             key = \"${{each.value.name}}\"\nwhen = \"each.value.size < 3\"\n\
             with = {{ value = \"${{each.value.size}}\", text = \"${{nodes.u.attempt}}/${{each.value.size}}\" }}\n"
        )
    };
    let project = Project::new(&workflow(1));
    project.run().await;
    project.write_workflow(&workflow(2));
    insta::assert_snapshot!(sentences(&refused(&project).await).join("\n"), @r#"
    a[x]: with.text was "1/1", is "1/2"
    a[x]: with.value was 1, is 2
    a[x]: when was "each.value.size < 3 (each.value.size = 1)", is "each.value.size < 3 (each.value.size = 2)"
    "#);
    project.write_workflow(&workflow(3));
    assert!(refused(&project).await.nodes[0].skipped.is_some());
}

/// Waiting for more has it made again, or asked again.
#[tokio::test]
async fn that_a_node_waits_for_a_new_one_is_a_change() {
    for (step, with) in [("test.natural", ""), ("gate", "with = { message = \"Switch?\" }\n")] {
        let workflow = |needs: &str| format!("[nodes.b]\nstep = \"{step}\"\n{with}{needs}");
        let project = Project::new(&workflow("").replace("nodes.b", "nodes.go"));
        project.run().await;
        if step == "gate" {
            approve(&project).await;
            assert_eq!(resume(&project, plain()).await.unwrap().state, RunState::Done);
        }
        project.calls();
        let more = workflow("needs = [\"n\"]\n[nodes.n]\nstep = \"test\"\n").replace("nodes.b", "nodes.go");
        project.write_workflow(&more);
        assert_eq!(sentences(&refused(&project).await), ["go: needs was [], is [\"n\"]"]);
        assert!(applied(&project).is_empty());
        fails(&project, "n");
        assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Failed);
        assert!(resume(&project, plain()).await.is_ok(), "it is accepted once");
    }
}

/// That a list is skipped by its new condition is done, and no news when something else is.
#[tokio::test]
async fn a_condition_that_skips_a_list_is_told_once() {
    let workflow = |when: &str| {
        format!(
            "[nodes.u]\nstep = \"test\"\n[nodes.copy]\nstep = \"test\"\nfor_each = [\"a\"]\n\
             when = \"nodes.u.attempt {when}\"\n"
        )
    };
    let project = Project::new(&workflow("== 1"));
    project.run().await;
    project.write_workflow(&workflow("> 5"));
    refused(&project).await;
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    assert_eq!(resume(&project, rerun("u")).await.unwrap().state, RunState::Done);
}

/// What takes outputs of what is skipped now is skipped too, whatever its step would say.
#[tokio::test]
async fn what_is_skipped_behind_a_change_is_not_planned() {
    let workflow = |when: &str| {
        format!(
            "[nodes.n]\nstep = \"test\"\nwith = {{ value = 1 }}\n\
             [nodes.a]\nstep = \"test\"\nneeds = [\"n\"]\n{when}\
             [nodes.c]\nstep = \"test\"\nwith = {{ value = \"${{nodes.a.attempt}}\" }}\n"
        )
    };
    let project = Project::new(&workflow(""));
    fails(&project, "c");
    project.run().await;
    project.write_workflow(&workflow("when = \"nodes.n.value == 2\"\n"));
    project.script(|s| drop(s.refuse.insert("c".into(), "it is there".into())));
    assert_eq!(resume(&project, accept()).await.unwrap().state, RunState::Done);
}

/// A condition asks for what it asks for.
#[tokio::test]
async fn other_outputs_of_a_sub_workflow_and_another_order_are_no_changes() {
    let part = |more: &str| {
        format!(
            "schema = 1\nname = \"p\"\n[nodes.x]\nstep = \"test\"\nwith = {{ value = true }}\n\
             [outputs]\nok = \"${{nodes.x.value}}\"\n{more}"
        )
    };
    let project = Project::new(
        "[nodes.p]\nstep = \"workflow\"\nwith = { file = \"p.toml\" }\n\
         [nodes.a]\nstep = \"test\"\nwhen = \"nodes.p.ok && has(env.site)\"\n",
    );
    std::fs::write(project.path("p.toml"), part("")).unwrap();
    project.write_environment("[site]\nname = \"here\"\n[more]\nx = 1\n");
    project.run().await;
    std::fs::write(project.path("p.toml"), part("third = \"${nodes.x.attempt}\"\n")).unwrap();
    project.write_environment("[more]\nx = 1\n[site]\nname = \"here\"\n");
    assert!(matches!(resume(&project, plain()).await, Err(RunError::AlreadyDone(_))));
    std::fs::write(project.path("p.toml"), part("").replace("x.value", "x.attempt")).unwrap();
    // Where the same output comes of something else, it is one.
    assert_eq!(refused(&project).await.nodes[0].fields[0].field, "when");
}
