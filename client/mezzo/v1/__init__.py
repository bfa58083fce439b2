"""Messages of the front-end, generated from proto/mezzo/v1 by ``make proto``. Needs ``mezzo[grpc]``."""
