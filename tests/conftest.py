# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tests share: how hypothesis finds its examples."""

from __future__ import annotations

import os

import hypothesis

# CI sees the same examples in every run, so that a red run is its commit's doing. Elsewhere they are new each time, and
# a failure prints what repeats it.
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", print_blob=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "random")
