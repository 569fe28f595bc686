// Copyright: (c) 2026, hyper2kvm contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// As nodes see the folders, see (*provisioner).folder for where they are.
const (
	nodeVolumes   = "/opt/volumes"
	sharedVolumes = "/opt/shared-volumes"
)

// provisioner makes volumes that are folders, and removes them. A volume of a storage class whose parameter "scope" is
// "node" is a folder of one node, that other nodes do not have; where it is "cluster", all nodes see the same folder.
type provisioner struct {
	root string // of the cluster's files, as this process sees them
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, name, root string
	command := &cobra.Command{
		Use:  "volume-provisioner",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			ctx := command.Context()
			// There is only one.
			options := controller.LeaderElection(false)
			controller.NewProvisionController(ctx, client, name, &provisioner{root}, options).Run(ctx)
			return nil
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&name, "name", "", "the provisioner that storage classes name")
	command.Flags().StringVar(&root, "root", "", "the folder of the cluster's files")
	return command
}

// folder tells where the files of a volume are: below the folder of one node, or of none.
func (p *provisioner) folder(volume, node string) string {
	if node == "" {
		return filepath.Join(p.root, filepath.Base(sharedVolumes), volume)
	}
	return filepath.Join(p.root, node, nodeVolumes, volume)
}

// Provision makes one volume's folder.
func (p *provisioner) Provision(
	_ context.Context, options controller.ProvisionOptions,
) (*core.PersistentVolume, controller.ProvisioningState, error) {
	refuse := func(format string, args ...any) (*core.PersistentVolume, controller.ProvisioningState, error) {
		return nil, controller.ProvisioningFinished, fmt.Errorf(format, args...)
	}
	volume := &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName},
		Spec: core.PersistentVolumeSpec{
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: options.PVC.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
		},
	}
	node := ""
	switch scope := options.StorageClass.Parameters["scope"]; scope {
	case "cluster":
		volume.Spec.HostPath = &core.HostPathVolumeSource{Path: filepath.Join(sharedVolumes, options.PVName)}
	case "node":
		if node = options.SelectedNodeName; node == "" {
			return refuse("a volume of one node needs a class with volumeBindingMode WaitForFirstConsumer")
		}
		for _, mode := range options.PVC.Spec.AccessModes {
			if mode != core.ReadWriteOnce && mode != core.ReadWriteOncePod {
				return refuse("access mode %s: a folder of one node cannot be shared by several; use another class", mode)
			}
		}
		volume.Spec.Local = &core.LocalVolumeSource{Path: filepath.Join(nodeVolumes, options.PVName)}
		volume.Spec.NodeAffinity = &core.VolumeNodeAffinity{Required: &core.NodeSelector{
			NodeSelectorTerms: []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{
				{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{node}},
			}}},
		}}
	default:
		return refuse("parameter scope of class %s is %q, and not node or cluster", options.StorageClass.Name, scope)
	}
	folder := p.folder(options.PVName, node)
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return refuse("the volume's folder could not be made: %w", err)
	}
	// Whatever the umask says: pods run as any user.
	if err := os.Chmod(folder, 0o777); err != nil {
		return refuse("the volume's folder could not be opened to all users: %w", err)
	}
	return volume, controller.ProvisioningFinished, nil
}

// Delete removes one volume's folder with all that is in it.
func (p *provisioner) Delete(_ context.Context, volume *core.PersistentVolume) error {
	node := ""
	if affinity := volume.Spec.NodeAffinity; affinity != nil {
		node = affinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
	}
	return os.RemoveAll(p.folder(volume.Name, node))
}
