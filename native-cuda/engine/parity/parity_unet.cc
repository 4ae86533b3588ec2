// Replays a U-Net fixture: output and gradients.
#include "models/layout.h"
#include "models/loaded.h"
#include "parity/parity.h"
#include "parity/tensors.h"

namespace spindle {

// Output, and gradients of sum(output * grad_output): of every parameter, of sample and of
// encoder_hidden_states.
void replay_unet(Fixture& fixture, Device& device) {
  auto unet =
      load_unet(device, fixture_model(fixture), {.compute = fixture.compute(), .trainable = true});
  const SafetensorsFile& inputs = fixture.inputs();
  UNetInputs in{.sample = to_nhwc(device, read_tensor(device, inputs, "sample"), fixture.compute()),
                .timesteps = read_integers_as<float>(inputs, "timesteps"),
                .text = to_dtype(device, read_tensor(device, inputs, "encoder_hidden_states"),
                                 fixture.compute())};
  if (inputs.find("text_embeds")) {
    in.text_embeds =
        to_dtype(device, read_tensor(device, inputs, "text_embeds"), fixture.compute());
    in.time_ids = inputs.floats("time_ids");
  }
  in.sample.set_needs_grad(true);
  in.text.set_needs_grad(true);

  Tape tape(device, true);
  Tensor output = unet->model.forward(tape, in);
  compare_tensor(fixture, device, "output", to_nchw(device, output));

  unet->store.begin_gradients();
  Grads grads = tape.backward(
      output, to_nhwc(device, read_tensor(device, inputs, "grad_output"), output.dtype()));
  unet->store.finish_gradients();
  // A pass that is given no gradient for an input leaves it out of `expected`.
  if (fixture.expected().find("grad.sample"))
    compare_tensor(fixture, device, "grad.sample", to_nchw(device, grads.get(in.sample)));
  if (fixture.expected().find("grad.encoder_hidden_states"))
    compare_tensor(fixture, device, "grad.encoder_hidden_states",
                   to_float(device, grads.get(in.text)));
  for (const Parameter& p : unet->store.parameters())
    if (fixture.expected().find("grad." + p.name))
      fixture.compare("grad." + p.name, in_file_layout(device, p, p.grad));
}

}  // namespace spindle
