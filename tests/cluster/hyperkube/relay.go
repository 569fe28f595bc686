// Copyright: (c) 2026, hyper2kvm contributors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"
)

// A machine that is a network namespace is reached by nobody outside. A socket belongs to the namespace that it was made
// in, whoever accepts its connections: so the machine is given one on which its host listens.
func newRelayCommand() *cobra.Command {
	var descriptor int
	var to string
	command := &cobra.Command{
		Use:  "relay",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			listener, err := net.FileListener(os.NewFile(uintptr(descriptor), "listener"))
			if err != nil {
				return err
			}
			for {
				client, err := listener.Accept()
				if err != nil {
					return err
				}
				go relay(client.(*net.TCPConn), to)
			}
		},
	}
	command.Flags().IntVar(&descriptor, "descriptor", -1, "the inherited socket")
	command.Flags().StringVar(&to, "to", "", "host:port of the server")
	return command
}

func relay(client *net.TCPConn, to string) {
	defer client.Close()
	connection, err := net.Dial("tcp", to)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	server := connection.(*net.TCPConn)
	defer server.Close()
	ended := make(chan struct{}, 2)
	copyTo := func(target, source *net.TCPConn) {
		// An error is an end as well.
		io.Copy(target, source)
		target.CloseWrite()
		ended <- struct{}{}
	}
	go copyTo(server, client)
	go copyTo(client, server)
	<-ended
	<-ended
}
