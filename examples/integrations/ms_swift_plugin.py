"""The file that `--external_plugins` names: registers `forget` among the callbacks of ms-swift."""

import forget_callback.integrations.ms_swift  # noqa: F401
