//! The one table of commands: wire class, handler, domain, lane, support.
//!
//! Sorted by class. Everything that the schemas name and this table does not is answered with
//! `UnsupportedAnswer`.

use super::registry::{Command, Domain, Entry, Lane, Support, ascending, decode_as, registry};
use super::{agent, certificate, host, network, storage, vm};
use crate::wire::classes::{self, Kind};

registry! {
    "com.cloud.agent.api.AgentControlCommand" => agent::agent_control::AgentControlCommand, Agent, Inline, Support::Done;
    "com.cloud.agent.api.AttachIsoCommand" => storage::attach_iso::AttachIsoCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.CheckConvertInstanceCommand" => host::check_convert_instance::CheckConvertInstanceCommand, Host, Pool, Support::Partial("tells that the programs are there, but guests are not converted");
    "com.cloud.agent.api.CheckHealthCommand" => host::check_health::CheckHealthCommand, Host, Inline, Support::Done;
    "com.cloud.agent.api.CheckNetworkCommand" => host::check_network::CheckNetworkCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.CheckOnHostCommand" => host::check_on_host::CheckOnHostCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.CheckVMActivityOnStoragePoolCommand" => host::check_vm_activity_on_storage_pool::CheckVMActivityOnStoragePoolCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.CheckVirtualMachineCommand" => vm::check_virtual_machine::CheckVirtualMachineCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.CheckVolumeCommand" => storage::check_volume::CheckVolumeCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.CleanupNetworkRulesCmd" => host::cleanup_network_rules::CleanupNetworkRulesCmd, Host, Inline, Support::Done;
    "com.cloud.agent.api.CleanupPersistentNetworkResourceCommand" => network::cleanup_persistent_network_resource::CleanupPersistentNetworkResourceCommand, Network, Pool, Support::Done;
    "com.cloud.agent.api.ConvertSnapshotCommand" => storage::convert_snapshot::ConvertSnapshotCommand, Storage, Pool, Support::Partial("if all that the snapshot is based on is on the same secondary storage");
    "com.cloud.agent.api.CreateStoragePoolCommand" => storage::create_storage_pool::CreateStoragePoolCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.CreateVMSnapshotCommand" => vm::create_vm_snapshot::CreateVmSnapshotCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.DeleteStoragePoolCommand" => storage::delete_storage_pool::DeleteStoragePoolCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.DeleteVMSnapshotCommand" => vm::delete_vm_snapshot::DeleteVmSnapshotCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.FreezeThawVMCommand" => vm::freeze_thaw_vm::FreezeThawVmCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetHostStatsCommand" => host::get_host_stats::GetHostStatsCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.GetRemoteVmsCommand" => vm::unmanaged::get_remote_vms::GetRemoteVmsCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetStorageStatsCommand" => storage::get_storage_stats::GetStorageStatsCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.GetUnmanagedInstancesCommand" => vm::unmanaged::get_unmanaged_instances::GetUnmanagedInstancesCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVmDiskStatsCommand" => vm::get_vm_disk_stats::GetVmDiskStatsCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVmIpAddressCommand" => vm::get_vm_ip_address::GetVmIpAddressCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVmNetworkStatsCommand" => vm::get_vm_network_stats::GetVmNetworkStatsCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVmStatsCommand" => vm::get_vm_stats::GetVmStatsCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVncPortCommand" => vm::get_vnc_port::GetVncPortCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.GetVolumeStatCommand" => storage::get_volume_stat::GetVolumeStatCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.GetVolumeStatsCommand" => storage::get_volume_stats::GetVolumeStatsCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.GetVolumesOnStorageCommand" => storage::get_volumes_on_storage::GetVolumesOnStorageCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.HandleConfigDriveIsoCommand" => storage::handle_config_drive_iso::HandleConfigDriveIsoCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.MaintainCommand" => agent::maintain::MaintainCommand, Agent, Inline, Support::Done;
    "com.cloud.agent.api.MigrateAgentConnectionCommand" => agent::migrate_connection::MigrateAgentConnectionCommand, Agent, Inline, Support::Done;
    "com.cloud.agent.api.MigrateCommand" => vm::moving::migrate::MigrateCommand, Vm, Pool, Support::Partial("not for guests with GPUs or DPDK ports");
    "com.cloud.agent.api.ModifySshKeysCommand" => host::modify_ssh_keys::ModifySshKeysCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.ModifyStoragePoolCommand" => storage::modify_storage_pool::ModifyStoragePoolCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.NetworkUsageCommand" => network::network_usage::NetworkUsageCommand, Network, Pool, Support::Done;
    "com.cloud.agent.api.PingTestCommand" => host::ping_test::PingTestCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.PlugNicCommand" => network::plug_nic::PlugNicCommand, Network, Pool, Support::Partial("without security groups");
    "com.cloud.agent.api.PrepareForMigrationCommand" => vm::moving::prepare_for_migration::PrepareForMigrationCommand, Vm, Pool, Support::Partial("not for guests with DPDK ports");
    "com.cloud.agent.api.PrepareUnmanageVMInstanceCommand" => vm::unmanaged::prepare_unmanage_vm_instance::PrepareUnmanageVmInstanceCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.PropagateResourceEventCommand" => agent::propagate_resource_event::PropagateResourceEventCommand, Agent, Inline, Support::Refused("servers send it to each other, never to a host");
    "com.cloud.agent.api.ReadyCommand" => agent::ready::ReadyCommand, Agent, Inline, Support::Done;
    "com.cloud.agent.api.RebootCommand" => vm::reboot::RebootCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.RemoveBitmapCommand" => storage::remove_bitmap::RemoveBitmapCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.ReplugNicCommand" => network::replug_nic::ReplugNicCommand, Network, Pool, Support::Partial("the card keeps its limit of bandwidth");
    "com.cloud.agent.api.RestoreVMSnapshotCommand" => vm::restore_vm_snapshot::RestoreVmSnapshotCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.RevertToVMSnapshotCommand" => vm::revert_to_vm_snapshot::RevertToVmSnapshotCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.RollingMaintenanceCommand" => host::rolling_maintenance::RollingMaintenanceCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.ScaleVmCommand" => vm::scale_vm::ScaleVmCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.SetHostParamsCommand" => agent::set_host_params::SetHostParamsCommand, Agent, Pool, Support::Partial("passes over parameters other than migratewait and router.aggregation.command.each.timeout");
    "com.cloud.agent.api.SetupPersistentNetworkCommand" => network::setup_persistent_network::SetupPersistentNetworkCommand, Network, Pool, Support::Done;
    "com.cloud.agent.api.ShutdownCommand" => agent::shutdown::ShutdownCommand, Agent, Inline, Support::Done;
    "com.cloud.agent.api.StartCommand" => vm::start::StartCommand, Vm, Pool, Support::Partial("without security groups, Open vSwitch, managed storage and the check for disk activity");
    "com.cloud.agent.api.StopCommand" => vm::stop::StopCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.UnPlugNicCommand" => network::un_plug_nic::UnPlugNicCommand, Network, Pool, Support::Partial("without security groups");
    "com.cloud.agent.api.UnmanageInstanceCommand" => vm::unmanaged::unmanage_instance::UnmanageInstanceCommand, Vm, Pool, Support::Done;
    "com.cloud.agent.api.UpdateHostPasswordCommand" => host::update_host_password::UpdateHostPasswordCommand, Host, Pool, Support::Done;
    "com.cloud.agent.api.storage.CheckAndRepairVolumeCommand" => storage::check_and_repair_volume::CheckAndRepairVolumeCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.CheckStorageAvailabilityCommand" => storage::check_storage_availability::CheckStorageAvailabilityCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.CopyVolumeCommand" => storage::copy_volume_command::CopyVolumeCommand, Storage, Pool, Support::Partial("not managed storage");
    "com.cloud.agent.api.storage.CreateDiskOnlyVmSnapshotCommand" => storage::create_disk_only_vm_snapshot::CreateDiskOnlyVmSnapshotCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.DeleteDiskOnlyVmSnapshotCommand" => storage::delete_disk_only_vm_snapshot::DeleteDiskOnlyVmSnapshotCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.DestroyCommand" => storage::destroy::DestroyCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.MergeDiskOnlyVmSnapshotCommand" => storage::merge_disk_only_vm_snapshot::MergeDiskOnlyVmSnapshotCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.MigrateVolumeCommand" => storage::migrate_volume::MigrateVolumeCommand, Storage, Pool, Support::Partial("not managed storage; encrypted volumes only while their guest is off");
    "com.cloud.agent.api.storage.PrimaryStorageDownloadCommand" => storage::primary_storage_download::PrimaryStorageDownloadCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.ResizeVolumeCommand" => storage::resize_volume::ResizeVolumeCommand, Storage, Pool, Support::Done;
    "com.cloud.agent.api.storage.RevertDiskOnlyVmSnapshotCommand" => storage::revert_disk_only_vm_snapshot::RevertDiskOnlyVmSnapshotCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.CheckUrlCommand" => storage::check_url::CheckUrlCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.HttpDirectDownloadCommand" => storage::http_direct_download::HttpDirectDownloadCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.HttpsDirectDownloadCommand" => storage::https_direct_download::HttpsDirectDownloadCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.MetalinkDirectDownloadCommand" => storage::metalink_direct_download::MetalinkDirectDownloadCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.NfsDirectDownloadCommand" => storage::nfs_direct_download::NfsDirectDownloadCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.RevokeDirectDownloadCertificateCommand" => storage::revoke_direct_download_certificate::RevokeDirectDownloadCertificateCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.directdownload.SetupDirectDownloadCertificateCommand" => storage::setup_direct_download_certificate::SetupDirectDownloadCertificateCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.agent.lb.SetupMSListCommand" => agent::setup_ms_list::SetupMsListCommand, Agent, Inline, Support::Done;
    "org.apache.cloudstack.ca.PostCertificateRenewalCommand" => certificate::post_certificate_renewal::PostCertificateRenewalCommand, Certificate, Pool, Support::Done;
    "org.apache.cloudstack.ca.SetupCertificateCommand" => certificate::setup_certificate::SetupCertificateCommand, Certificate, Pool, Support::Partial("for this host, not for system VMs");
    "org.apache.cloudstack.ca.SetupKeyStoreCommand" => certificate::setup_key_store::SetupKeyStoreCommand, Certificate, Pool, Support::Partial("for this host, not for system VMs");
    "org.apache.cloudstack.storage.command.AttachCommand" => storage::attach::AttachCommand, Storage, Pool, Support::Partial("without the checkpoints of incremental snapshots");
    "org.apache.cloudstack.storage.command.CopyCommand" => storage::copy::CopyCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.storage.command.CreateObjectCommand" => storage::create_object::CreateObjectCommand, Storage, Pool, Support::Partial("full snapshots, not incremental ones");
    "org.apache.cloudstack.storage.command.DeleteCommand" => storage::delete::DeleteCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.storage.command.DettachCommand" => storage::dettach::DettachCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.storage.command.RevertSnapshotCommand" => storage::revert_snapshot::RevertSnapshotCommand, Storage, Pool, Support::Done;
    "org.apache.cloudstack.storage.command.browser.ListDataStoreObjectsCommand" => storage::list_data_store_objects::ListDataStoreObjectsCommand, Storage, Pool, Support::Done;
}

/// The table's line for a fully qualified class.
pub fn find(class: &str) -> Option<&'static Entry> {
    let at = TABLE.binary_search_by(|entry| entry.class.cmp(class)).ok()?;
    TABLE.get(at)
}

/// Command classes that the schemas name and that have no handler, with the first version seen.
pub fn unsupported() -> impl Iterator<Item = (&'static str, &'static str)> {
    classes::all()
        .iter()
        .filter(|class| class.kind == Kind::Command && find(class.name).is_none())
        .map(|class| (class.name, class.since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_names_classes_that_servers_know() {
        for entry in TABLE {
            assert_eq!(classes::find(entry.class).map(|c| c.kind), Some(Kind::Command), "{}", entry.class);
            assert_eq!(classes::find(entry.answer).map(|c| c.kind), Some(Kind::Answer), "{}", entry.answer);
        }
    }

    #[test]
    fn handled_and_unsupported_are_all_commands_there_are() {
        let commands = classes::all().iter().filter(|c| c.kind == Kind::Command).count();
        assert_eq!(TABLE.len() + unsupported().count(), commands);
    }
}
