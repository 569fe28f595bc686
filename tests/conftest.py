# Copyright: (c) 2026, hyper2kvm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all tests share: how hypothesis finds its examples, and what Ctrl-C means."""

from __future__ import annotations

import os
import signal

import hypothesis

# CI sees the same examples in every run, so that a red run is its commit's doing. Elsewhere they are new each time, and
# a failure prints what repeats it.
hypothesis.settings.register_profile("ci", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("random", print_blob=True, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "random")

# In the background a shell starts programs with this signal ignored, and so is all that tests start, also what
# they end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)
