# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.hyper2kvm.core.plugins.plugin_utils.blank_options import WithoutBlanks


class ActionModule(WithoutBlanks):
    """Runs the module without the options that are blank."""
