//! What libvirt's test driver can do: it has no devices that come and go.

use crate::commands::testing::Bench;
use crate::storage::testing::{qemu_img, run};
use serde_json::{Value, json};

const ATTACH: &str = "org.apache.cloudstack.storage.command.AttachCommand";
const DETTACH: &str = "org.apache.cloudstack.storage.command.DettachCommand";

fn command(data: &Value, guest: &str) -> Value {
    json!({"disk": {"data": data, "diskSeq": 1, "path": "v", "type": "DATADISK", "_details": {}}, "vmName": guest,
        "forced": false, "waitDetachDevice": 10})
}

async fn ask(bench: &mut Bench, class: &str, fields: Value) -> Value {
    let answer = if class == ATTACH { "AttachAnswer" } else { "DettachAnswer" };
    let (class, fields) = bench.answer(class, fields).await;
    assert_eq!(class, format!("org.apache.cloudstack.storage.command.{answer}"));
    fields
}

async fn refused(bench: &mut Bench, class: &str, fields: Value) -> String {
    let answer = ask(bench, class, fields).await;
    assert_eq!((&answer["result"], answer.get("disk")), (&json!(false), None), "{answer}");
    answer["details"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn attached_and_detached_already_are_successes() {
    let mut bench = Bench::with_pool().await;
    let path = bench.pool_dir().join("v");
    bench.guest("i-2-3-VM", &path).await;
    let attached = command(&bench.volume("v"), "i-2-3-VM");
    let answer = ask(&mut bench, ATTACH, attached.clone()).await;
    assert_eq!((&answer["result"], &answer["disk"]), (&json!(true), &attached["disk"]));
    let other = command(&bench.volume("w"), "i-2-3-VM");
    let answer = ask(&mut bench, DETTACH, other.clone()).await;
    assert_eq!((&answer["result"], &answer["disk"]), (&json!(true), &other["disk"]));
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words() {
    if qemu_img().is_none() {
        return;
    }
    let mut bench = Bench::with_pool().await;
    let volume = bench.volume("v");
    for class in [ATTACH, DETTACH] {
        let details = refused(&mut bench, class, command(&volume, "i-2-9-VM")).await;
        assert!(details.contains("No guest named i-2-9-VM"), "{details}");
        let none = refused(&mut bench, class, json!({"vmName": "i-2-3-VM"})).await;
        assert!(none.contains("does not say which disk"), "{none}");
    }
    let path = |name: &str| bench.pool_dir().join(name);
    let (own, others) = (path("own"), path("others"));
    bench.guest("i-2-3-VM", &own).await;
    bench.guest("i-2-4-VM", &others).await;
    run(&["qemu-img", "create", "-q", "-f", "qcow2", path("v").to_str().unwrap(), "1M"]).await.unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut fields = command(&volume, "i-2-3-VM");
        change(&mut fields);
        fields
    };
    let inner = "org.apache.cloudstack.storage.to.VolumeObjectTO";
    for (fields, words) in [
        (with(&|f| f["disk"]["data"][inner]["path"] = "missing".into()), "missing was not found"),
        (
            with(&|f| f["disk"]["data"][inner]["path"] = "others".into()),
            "is disk vda of i-2-4-VM, which runs",
        ),
        (with(&|f| f["disk"]["data"][inner]["format"] = "VMDK".into()), "use QCOW2 or RAW"),
        (with(&|f| f["disk"]["diskSeq"] = Value::Null), "no usable device number"),
        (with(&|f| f["disk"]["diskSeq"] = 5000.into()), "no usable device number"),
        (with(&|f| f["disk"]["diskSeq"] = 0.into()), "own as disk vda already"),
        (with(&|f| f["disk"]["data"] = json!({"x.Y": {}})), "Only volumes and ISO images"),
        // libvirt's test driver cannot attach anything.
        (with(&|_| ()), "cannot do attaching the device"),
    ] {
        let details = refused(&mut bench, ATTACH, fields).await;
        assert!(details.contains(words), "{words}: {details}");
    }
}

#[tokio::test]
async fn images_are_answered_plainly() {
    let mut bench = Bench::with_node(super::iso::NODE).await;
    let template = "org.apache.cloudstack.storage.to.TemplateObjectTO";
    let command = |guest: &str| json!({"disk": {"data": {template: {"path": "t/1/x.iso"}}, "type": "ISO"}, "vmName": guest});
    let (class, answer) = bench.answer(ATTACH, command("i-2-3-VM")).await;
    assert_eq!((class.as_str(), &answer["result"]), ("com.cloud.agent.api.Answer", &json!(false)));
    assert!(answer["details"].as_str().unwrap().contains("unsupported protocol"), "{answer}");
    for (guest, result) in [("i-2-3-VM", true), ("i-2-4-VM", false), ("i-2-9-VM", false)] {
        let (class, answer) = bench.answer(DETTACH, command(guest)).await;
        assert_eq!(
            (class.as_str(), &answer["result"]),
            ("com.cloud.agent.api.Answer", &json!(result)),
            "{answer}"
        );
    }
}
