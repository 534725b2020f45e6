"""An estimate of the energy of a run, from assumptions that are said beside it. Nothing is measured."""

from typing import Any


def estimate_energy(seconds: float, devices: int, device_watts: float, grid_kg_per_kwh: float) -> dict[str, Any]:
    """kWh and kg of carbon dioxide of `devices` that draw `device_watts` each for `seconds`, JSON-ready."""
    kwh = device_watts * devices * seconds / 3600 / 1000
    return {
        "kwh": kwh,
        "co2_kg": kwh * grid_kg_per_kwh,
        "estimated": True,
        "assumed": {"device_watts": device_watts, "devices": devices, "grid_kg_per_kwh": grid_kg_per_kwh},
    }
